"""What makes the editor's templates of a workflow; ``export_ui_workflows.py`` is its program."""
