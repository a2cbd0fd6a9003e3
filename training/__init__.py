"""How the embedded engine's small models are made: drawn scenes, the models, their training and the checker."""
