// The C interface of the native decoder: samples of a dataset go in, pixels of a batch come out.
//
// A decoder owns its threads. A batch is submitted, is filled by those threads in the order of submission, and is
// waited for; several may be under way at once, so that no thread idles at the end of one. The caller owns all
// memory: the samples are copied on submission, `pixels` and `statuses` must live until the batch has been waited for.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define E18_API __attribute__((visibility("default")))

enum { E18_INTERFACE = 3 };  // changes with every change of this file

// What became of a sample. The texts are in data/native.py.
enum {
  E18_OK = 0,
  E18_CANCELLED = 1,  // the decoder was closed before its turn
  E18_READ_FAILED = 2,  // detail: errno
  E18_SHORT = 3,  // detail: bytes that were there
  E18_CHECKSUM = 4,  // the bytes are not those that were packed
  E18_NO_MEMORY = 5,
  E18_NOT_DECODED = 6,  // message: what libjpeg-turbo says
  E18_WARNED = 7,  // message: what libjpeg-turbo warns of
  E18_WRONG_SIZE = 8,  // the picture has not the size that the index says; detail: width << 16 | height
  E18_TOO_LARGE = 9,  // more pixels, or more scans, than a sample may have
  E18_BAD_BOX = 10,  // a box that lies outside of its picture, or is empty
  E18_BAD_ROWS = 11,  // its e18_rows are not those that were packed
};

enum { E18_MEMORY = -1 };

enum {
  E18_TOLERANT = 1,  // it may be a JPEG that makes libjpeg-turbo warn
  E18_LIBJPEG = 2,  // libjpeg-turbo decodes it, even if the decoder for plain JPEGs could: for tests
};

// Where a row of MCUs of a plain JPEG begins: what lies before it need not be read.
typedef struct {
  uint32_t bit;  // of the entropy-coded bytes, without the zeros that hide 0xFF
  int16_t dc[3];  // what the first block of each component adds to
  uint16_t unused;  // 0
} e18_row;

// A stored picture, and the part of it that is wanted.
typedef struct {
  uint64_t offset;  // of its first byte in the file
  uint64_t length;  // bytes
  int32_t fd;  // an open file; it stays the caller's. E18_MEMORY: `offset` is an address, and
               // nothing is verified
  uint32_t crc32c;
  uint32_t width, height;  // pixels
  float box_left, box_top, box_width, box_height;  // pixels of the stored picture
  uint32_t mirror;  // 1: left becomes right
  uint32_t options;  // E18_TOLERANT, E18_LIBJPEG, or both
  const e18_row *rows;  // of the picture, [num_rows]; NULL and 0 if unknown
  uint32_t num_rows, rows_crc32c;
} e18_sample;

// What a batch is made into.
typedef struct {
  int32_t height, width;  // pixels of every picture
  int32_t channels;  // 1 or 3
  int32_t raw_channels;  // 0: samples are JPEGs; 1 or 3: raw pixels [height, width, raw_channels]
} e18_shape;

// Work done, summed over the samples of a batch: nanoseconds of its threads, and bytes.
typedef struct {
  uint64_t read_ns, verify_ns, decode_ns, resize_ns;
  uint64_t read_bytes;
} e18_work;

typedef struct e18_decoder e18_decoder;
typedef struct e18_batch e18_batch;

E18_API int e18_interface(void);
E18_API const char *e18_library(void);  // "libjpeg-turbo 2.1.5"
E18_API const char *e18_instructions(void);  // what is used of this processor: "avx2", "portable"

E18_API uint32_t e18_crc32c(const void *bytes, uint64_t length);

// Finds where the rows of MCUs begin, of which there are at most `max_rows`; returns how many there are, or 0 for all that
// is no plain, sound JPEG without restart markers.
E18_API int32_t e18_find_rows(const uint8_t *bytes, uint64_t length, e18_row *rows, int32_t max_rows);

// One sample, by the calling thread. Returns what became of it.
E18_API int e18_make(const e18_sample *sample, e18_shape shape, uint8_t *pixels, int64_t *detail, char *message,
                     int message_size);

// NULL if the threads cannot be started.
E18_API e18_decoder *e18_open(int num_threads);
// Every sample that no thread has begun becomes E18_CANCELLED, at once and from now on. Safe from any thread.
E18_API void e18_cancel(e18_decoder *decoder);
// Cancels, ends the threads, and frees; batches that nobody waited for too. No other call may be under way.
// false: a thread is stuck in a read, and after 2 s the decoder was left to it; all that it may write to must live on.
E18_API int e18_close(e18_decoder *decoder);

// pixels: [num_samples, height, width, channels]      statuses, details: [num_samples]
// NULL if there is no memory for it.
E18_API e18_batch *e18_submit(e18_decoder *decoder, const e18_sample *samples, int64_t num_samples, e18_shape shape,
                              uint8_t *pixels, int32_t *statuses, int64_t *details);
// Waits until the batch is filled, and frees it; true. After a cancellation false, if a thread is stuck in a read for 2 s
// more: the batch is left to it, and may not be waited for again.
// message: of the first sample that has one, at most `message_size` bytes with the final zero
E18_API int e18_wait(e18_decoder *decoder, e18_batch *batch, e18_work *work, char *message, int message_size);

// The sample that a thread has been at for longest: its batch (NULL if there is none), place, stage, and for how long.
enum { E18_READING = 0, E18_DECODING = 1 };
E18_API e18_batch *e18_slowest(e18_decoder *decoder, int64_t *place, int32_t *stage, double *seconds);

#ifdef __cplusplus
}
#endif
