"""A page in the browser that asks a model about images, and the same page as a Space."""
