/* The file that `profile` writes. */
#pragma once

/* Puts all that is in `contents` into the file, or ends the tool. What was there is kept until all of that is beside
 * it, where the folder allows it. */
void save(const char *path, int contents);
/* The same to standard output. */
void save_to_output(int contents);

/* Before the child is made (watch.h) that calls `save`. The other one, when it has ended, takes away what it has left
 * behind if it was killed. */
void save_share(void);
void save_clean(void);
