/* The report at exit: what the options `stats` and `stats_file` ask for. */
#pragma once

/* At start, if one of them is set: remember where standard error is, and warn if the file cannot be written. */
void slm_report_start(void);

/* At exit: write the figures, as lines to standard error, and as a line of JSON at the end of the file. */
void slm_report_write(void);
