"""Jobs that are not let into their lanes yet."""
