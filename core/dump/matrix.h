/* matrix.h - one float32 matrix in an HDF5 file of its own, written row by row.
 */
#ifndef CORE_DUMP_MATRIX_H
#define CORE_DUMP_MATRIX_H

struct matrix_writer;

/* Starts PATH with the dataset NAME [rows, cols], replacing an old PATH only when all is written.
 * NULL after fail(). */
struct matrix_writer *matrix_create(const char *path, const char *name, int rows, int cols);

/* Writes row ROW. 0, or -1 after fail(). */
int matrix_put(struct matrix_writer *w, int row, const float *values);

/* Closes and, when RC is 0, gives the file its name; otherwise removes it. W may be NULL. Returns
 * RC, or -1 after fail(). */
int matrix_close(struct matrix_writer *w, int rc);

#endif
