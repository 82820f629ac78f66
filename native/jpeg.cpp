// libjpeg reports an error by not returning: each public function sets the place to come back to, and holds nothing
// that would have to be destroyed.
#include "jpeg.h"

#include <algorithm>

#include <jerror.h>

namespace eighteen {
namespace {

constexpr long MAX_MEMORY = 256L << 20;  // bytes that libjpeg may take for one picture: progressive ones are held whole
constexpr int MAX_SCANS = 100;  // of a progressive picture; each costs a pass over it, and 2 to 10 are usual

}  // namespace

Jpeg::Jpeg() {
  info_.err = jpeg_std_error(&errors_);
  info_.client_data = this;
  errors_.error_exit = give_up;
  errors_.emit_message = note;
  errors_.output_message = [](j_common_ptr) {};
  if (setjmp(escape_)) return;  // no memory even for its tables: open fails again
  jpeg_create_decompress(&info_);
  info_.mem->max_memory_to_use = MAX_MEMORY;
  progress_.progress_monitor = count_scans;
  info_.progress = &progress_;
}

Jpeg::~Jpeg() { jpeg_destroy_decompress(&info_); }

bool Jpeg::open(const uint8_t* bytes, size_t length, bool tolerant) {
  tolerant_ = tolerant;
  message_[0] = '\0';
  errors_.num_warnings = 0;
  too_many_scans_ = false;
  if (setjmp(escape_)) return false;
  jpeg_abort_decompress(&info_);  // whatever became of the picture before
  jpeg_mem_src(&info_, bytes, static_cast<unsigned long>(length));
  return jpeg_read_header(&info_, TRUE) == JPEG_HEADER_OK;
}

bool Jpeg::start(int shrink, bool gray, int left, int right, int top) {
  if (setjmp(escape_)) return false;
  info_.scale_num = 1, info_.scale_denom = static_cast<unsigned>(shrink);
  info_.out_color_space = gray ? JCS_GRAYSCALE : JCS_EXT_RGBX;
  info_.dct_method = JDCT_ISLOW;
  jpeg_start_decompress(&info_);
  left_ = 0;
  // More pixels on each side: chroma at the edge of what is decoded is not smoothed as it is in a whole picture, and a
  // single column of it not at all.
  const int from = std::max(left - 2, 0), to = std::min<int>(right + 1, info_.output_width);
  if (to - from < static_cast<int>(info_.output_width)) {
    JDIMENSION offset = from, width = to - from;
    jpeg_crop_scanline(&info_, &offset, &width);  // widens it to whole blocks
    left_ = static_cast<int>(offset);
  }
  if (top > 0) jpeg_skip_scanlines(&info_, top);
  return true;
}

bool Jpeg::read(uint8_t* row) {
  if (setjmp(escape_)) return false;
  return jpeg_read_scanlines(&info_, &row, 1) == 1;
}

bool Jpeg::out_of_memory() const {
  return errors_.msg_code == JERR_OUT_OF_MEMORY || errors_.msg_code == JERR_NO_BACKING_STORE;
}

void Jpeg::give_up(j_common_ptr info) {
  Jpeg& jpeg = of(info);
  info->err->format_message(info, jpeg.message_);
  std::longjmp(jpeg.escape_, 1);
}

void Jpeg::note(j_common_ptr info, int level) {
  if (level >= 0) return;  // not a warning
  if (of(info).tolerant_ && info->err->msg_code != JWRN_JPEG_EOF) return;  // what was cut off is never filled in
  ++info->err->num_warnings;
  give_up(info);
}

void Jpeg::count_scans(j_common_ptr info) {
  Jpeg& jpeg = of(info);
  if (jpeg.info_.input_scan_number <= MAX_SCANS) return;
  jpeg.too_many_scans_ = true;
  give_up(info);
}

}  // namespace eighteen
