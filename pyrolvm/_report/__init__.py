"""How results are shown: pictures in one style, and pages by one template."""
