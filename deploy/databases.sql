-- The two databases of a deployment on several hosts: Dagster's storage, and the inbox of webhook notifications.
-- The password of each user is set afterwards, with \password, so that it is in no file (docs/deployment.md).
CREATE USER dagster;
CREATE DATABASE dagster OWNER dagster;
CREATE USER inbox;
CREATE DATABASE inbox OWNER inbox;
