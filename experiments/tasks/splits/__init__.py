"""What tasks train on: functions that return a ``Split``, by what the data are."""
