/* Writes hostile.h5: datasets and links that filigree must refuse, and two that it must read.
   gcc make_hostile.c -I/usr/include/hdf5/serial -lhdf5_serial -o make_hostile && ./make_hostile */
#include <hdf5.h>
#include <string.h>

static hid_t file;

static void put(const char* name, hid_t type, hid_t space, hid_t properties, const void* data) {
  hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  if (data) H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
  H5Dclose(set);
}

int main(void) {
  static int ramp[1000];
  for (int i = 0; i < 1000; ++i) ramp[i] = i;
  const hsize_t n = 1000, chunk = 100, huge = 1ull << 40, huge_chunk = 1 << 28, one = 1,
                unlimited = H5S_UNLIMITED;
  const hsize_t nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
  file = H5Fcreate("hostile.h5", H5F_ACC_TRUNC, H5P_DEFAULT, access);
  hid_t line = H5Screate_simple(1, &n, NULL), single = H5Screate_simple(1, &one, NULL);

  hid_t p = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(p, 1, &chunk);
  H5Pset_shuffle(p);
  H5Pset_deflate(p, 6);
  H5Pset_fletcher32(p);
  put("good_deflate", H5T_STD_I32LE, line, p, ramp);
  p = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_layout(p, H5D_COMPACT);
  put("good_compact", H5T_STD_I32LE, line, p, ramp);

  p = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(p, 1, &chunk);
  H5Pset_nbit(p);
  put("filter", H5T_STD_I32LE, line, p, ramp);
  p = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(p, "/etc/passwd", 0, 4000);
  put("external_storage", H5T_STD_I32LE, line, p, NULL);
  p = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_virtual(p, line, "other.h5", "x", line);
  put("virtual", H5T_STD_I32LE, line, p, NULL);

  p = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(p, 1, &huge_chunk);
  hid_t wide = H5Screate_simple(1, &huge, &unlimited);
  put("huge", H5T_STD_I32LE, wide, p, NULL); /* claims 4 TiB, stores nothing */
  put("never_written", H5T_STD_I32LE, line, H5P_DEFAULT, NULL);
  hsize_t two_huge[2] = {1ull << 40, 1ull << 40}, two_unlimited[2] = {H5S_UNLIMITED, H5S_UNLIMITED},
          two_chunk[2] = {1, 1};
  p = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(p, 2, two_chunk);
  H5Pset_deflate(p, 1);
  put("overflow", H5T_STD_I32LE, H5Screate_simple(2, two_huge, two_unlimited), p, NULL);
  put("rank_9", H5T_STD_I32LE, H5Screate_simple(9, nine, NULL), H5P_DEFAULT, ramp);
  put("null_space", H5T_STD_I32LE, H5Screate(H5S_NULL), H5P_DEFAULT, NULL);

  hid_t text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  const char* words = "variable";
  put("variable_string", text, single, H5P_DEFAULT, &words);
  put("variable_length", H5Tvlen_create(H5T_STD_I32LE), single, H5P_DEFAULT, NULL);
  put("big_endian", H5T_STD_I32BE, line, H5P_DEFAULT, ramp);
  hid_t attribute = H5Acreate2(file, "variable", text, single, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, text, &words);
  H5Aclose(attribute);

  H5Lcreate_external("other.h5", "/x", file, "external_link", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/good_compact", file, "soft_link", H5P_DEFAULT, H5P_DEFAULT);
  return H5Fclose(file) < 0;
}
