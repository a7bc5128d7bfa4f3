/* The report at exit: what the options `stats` and `stats_file` ask for. */
#pragma once

/* At start, if one of them is set: remember where standard error is, and warn if the file cannot be written. */
void slm_report_start(void);

/* At exit: write the figures, as lines to standard error, and as a line of JSON at the end of the file. */
void slm_report_write(void);

/* The same for any option's file: 0 if one can be made in the path's folder, or the errno that says why not; and the
 * line that says so. `error` is an errno code, `so` what follows from it. Legal in signal handlers. */
int slm_report_folder_error(const char *path);
void slm_report_refuse(const char *option, const char *path, int error, const char *so);
