"""Malformed inputs for the command line: tables of cases, made from seeds, and what runs one of them."""
