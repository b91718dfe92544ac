"""Views that analysts query: their SQL, columns and descriptions."""
