"""Where Q/DQ pairs go, per runtime family."""
