"""A study: a configuration, the runs that it plans, and what makes them."""
