"""One page of tables and plots."""
