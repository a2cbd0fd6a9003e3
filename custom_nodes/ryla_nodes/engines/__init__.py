"""The engines that our nodes run in, behind one protocol."""
