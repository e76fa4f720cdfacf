/* matrix.c - one float32 matrix in an HDF5 file of its own. */
#include "core/dump/matrix.h"
#include "core/base/base.h"
#include "core/dump/h5.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct matrix_writer {
    char *path, *temporary;
    hid_t file, set, row_space;
    int cols;
};

struct matrix_writer *matrix_create(const char *path, const char *name, int rows, int cols)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) { /* a rename would replace it */
        fail("%s: expected the name of a file to write, found something else", path);
        return NULL;
    }
    struct matrix_writer *w = xcalloc(1, sizeof *w);
    const hsize_t dims[] = {(hsize_t)rows, (hsize_t)cols}, row[] = {1, (hsize_t)cols};
    hid_t space, type;

    h5_start();
    space = H5Screate_simple(2, dims, NULL);
    w->cols = cols;
    w->path = xstrdup(path);
    w->temporary = xprintf("%s.tmp.%ld", path, (long)getpid());
    w->row_space = H5Screate_simple(2, row, NULL);
    w->file = h5_create_file(w->temporary);
    type = h5_type(STORE_F32);
    w->set = w->file < 0
                 ? -1
                 : H5Dcreate2(w->file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Sclose(space);
    H5Tclose(type);
    if (w->set >= 0) return w;
    h5_write_failed(path);
    matrix_close(w, -1);
    return NULL;
}

int matrix_put(struct matrix_writer *w, int row, const float *values)
{
    const hsize_t start[] = {(hsize_t)row, 0}, count[] = {1, (hsize_t)w->cols};
    hid_t disk = H5Dget_space(w->set);
    const bool good =
        disk >= 0 && H5Sselect_hyperslab(disk, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
        H5Dwrite(w->set, H5T_NATIVE_FLOAT, w->row_space, disk, H5P_DEFAULT, values) >= 0;
    if (disk >= 0) H5Sclose(disk);
    return good ? 0 : h5_write_failed(w->path);
}

int matrix_close(struct matrix_writer *w, int rc)
{
    if (w == NULL) return rc;
    bool good = true;
    if (w->set >= 0) good = H5Dclose(w->set) >= 0;
    if (w->file >= 0) {
        good = good && H5Fflush(w->file, H5F_SCOPE_GLOBAL) >= 0;
        good = H5Fclose(w->file) >= 0 && good;
    }
    H5Sclose(w->row_space);
    if (rc == 0 && (!good || rename(w->temporary, w->path) != 0)) rc = h5_write_failed(w->path);
    if (rc != 0) unlink(w->temporary);
    free(w->path);
    free(w->temporary);
    free(w);
    return rc;
}
