"""One fit loop for every model, the objectives, and the settings of the trainings."""
