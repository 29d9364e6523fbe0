"""A child whose module is never imported to its end."""

import time

time.sleep(600)
