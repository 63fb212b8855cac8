"""The workshop: makes, checks and stores the models, offline."""
