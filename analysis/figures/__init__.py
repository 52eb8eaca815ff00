"""The report's figures, one file each: finished numbers in, a Draft out."""
