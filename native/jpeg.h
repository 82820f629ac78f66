#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>  // jpeglib.h needs it

#include <jpeglib.h>

#include "resize.h"

namespace eighteen {

// Decodes a part of a JPEG, shrunk as far as the frequencies of its blocks allow for free. One picture at a time:
// open, then start, then read row after row. Memory is kept for the next picture.
class Jpeg final : public Rows {
 public:
  Jpeg();
  ~Jpeg();
  Jpeg(const Jpeg&) = delete;
  Jpeg& operator=(const Jpeg&) = delete;

  // Each is false where libjpeg-turbo gives up, or warns of anything, unless tolerant; `message` says of what.
  bool open(const uint8_t* bytes, size_t length, bool tolerant);  // reads the headers
  // shrink: 1, 2, 4 or 8      columns [left, right) and rows from `top`: what is needed, in shrunk pixels
  // gray: rows of 1 byte a pixel, else of 4 (RGB, and one to ignore)
  bool start(int shrink, bool gray, int left, int right, int top);
  bool read(uint8_t* row) override;

  int width() const { return static_cast<int>(info_.image_width); }
  int height() const { return static_cast<int>(info_.image_height); }
  int left() const override { return left_; }
  int row_pixels() const { return static_cast<int>(info_.output_width); }  // of a row, once started
  bool out_of_memory() const;
  bool too_many_scans() const { return too_many_scans_; }
  bool warned() const { return errors_.num_warnings > 0; }  // gave up because of a warning
  const char* message() const { return message_; }

 private:
  static Jpeg& of(j_common_ptr info) { return *static_cast<Jpeg*>(info->client_data); }
  [[noreturn]] static void give_up(j_common_ptr info);
  static void note(j_common_ptr info, int level);
  static void count_scans(j_common_ptr info);

  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf escape_{};
  char message_[JMSG_LENGTH_MAX]{};
  bool tolerant_ = false, too_many_scans_ = false;
  int left_ = 0;
};

}  // namespace eighteen
