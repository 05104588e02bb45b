"""Where music comes from: folders, archives, and the corpora that package managers have."""
