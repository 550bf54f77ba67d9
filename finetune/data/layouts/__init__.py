"""Where the files of each format are: folders of exports, their splits, and what a file looks like."""
