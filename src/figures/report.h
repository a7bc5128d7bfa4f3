/* The report at exit: what the options `stats` and `stats_file` ask for. */
#pragma once

/* At start, if one of them is set: remember where standard error is, and say what will keep the file from being
 * written. */
void slm_report_start(void);

/* At exit: write the figures, as lines on standard error, and as a line of JSON at the end of the file. */
void slm_report_write(void);
