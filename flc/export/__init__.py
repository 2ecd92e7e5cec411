"""The student as something stock tools load: a diffusers pipeline folder and its model card."""
