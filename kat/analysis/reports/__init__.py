"""Reports: HTML pages that stand alone, and the files of an evaluation."""
