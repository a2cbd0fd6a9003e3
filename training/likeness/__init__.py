"""Does the embedded engine paint the person of the photo? What is asked of it, in one process, and how it is scored."""
