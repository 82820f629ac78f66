#include "picture.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unistd.h>

#include "clock.h"
#include "crc32c.h"

namespace eighteen {
namespace {

constexpr uint64_t MAX_PIXELS = 100'000'000;  // as in data/pictures.py
constexpr uint64_t MAX_BYTES = 512ull << 20;

// Whether a box has an area and begins within its picture; it may end beyond it by what float32 rounds.
bool is_within(const e18_sample& s) {
  const double right = double(s.box_left) + s.box_width, bottom = double(s.box_top) + s.box_height;
  return s.box_left >= 0 && s.box_top >= 0 && s.box_width > 0 && s.box_height > 0 && right <= s.width * 1.0001 + 0.01 &&
         bottom <= s.height * 1.0001 + 0.01;
}

// How far a JPEG may be shrunk while decoding so that its box still has at least the target's pixels.
int shrink_for(double ratio) {
  for (int shrink : {8, 4, 2})
    if (ratio >= shrink) return shrink;
  return 1;
}

Resizer::Box shrunk(const e18_sample& s, int shrink) {
  const double right = std::fmin(double(s.box_left) + s.box_width, s.width);
  const double bottom = std::fmin(double(s.box_top) + s.box_height, s.height);
  return {s.box_left / double(shrink), s.box_top / double(shrink), (right - s.box_left) / shrink,
          (bottom - s.box_top) / shrink};
}

// Rows of raw pixels, as the resizer wants them.
class RawRows final : public Rows {
 public:
  RawRows(const uint8_t* next, int width, int from_channels, int to_channels)
      : next_(next), width_(width), from_(from_channels), to_(to_channels) {}

  bool read(uint8_t* row) override {
    const uint8_t* pixel = next_;
    next_ += static_cast<size_t>(width_) * from_;
    if (from_ == 1 && to_ == 1) {
      std::memcpy(row, pixel, width_);
    } else if (to_ == 1) {  // ITU-R 601-2 luma, in Pillow's integers
      for (int x = 0; x < width_; ++x, pixel += 3)
        row[x] = static_cast<uint8_t>((pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16);
    } else {
      for (int x = 0; x < width_; ++x, pixel += from_, row += 4)
        row[0] = pixel[0], row[1] = pixel[from_ / 2], row[2] = pixel[from_ - 1], row[3] = 0;
    }
    return true;
  }
  int left() const override { return 0; }

 private:
  const uint8_t* next_;
  int width_, from_, to_;
};

}  // namespace

Outcome PictureMaker::make(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, e18_work& work) {
  if (!is_within(sample)) return {E18_BAD_BOX};
  if (uint64_t(sample.width) * sample.height > MAX_PIXELS || sample.length > MAX_BYTES) return {E18_TOO_LARGE};
  const uint64_t began = now_ns();
  stage_.store(E18_READING, std::memory_order_relaxed);
  if (Outcome outcome = read(sample); outcome.status != E18_OK) return outcome;
  const uint64_t have_read = now_ns();
  work.read_ns += have_read - began;
  work.read_bytes += sample.length;
  if (sample.fd != E18_MEMORY && crc32c(bytes_, sample.length) != sample.crc32c) return {E18_CHECKSUM};
  if (crc32c(reinterpret_cast<const uint8_t*>(sample.rows), sizeof(e18_row) * sample.num_rows) != sample.rows_crc32c) return {E18_BAD_ROWS};
  const uint64_t verified = now_ns();
  work.verify_ns += verified - have_read;
  stage_.store(E18_DECODING, std::memory_order_relaxed);
  try {
    uint64_t source_ns = 0;
    const Outcome outcome = shape.raw_channels ? from_raw(sample, shape, pixels, source_ns)
                                               : from_jpeg(sample, shape, pixels, source_ns);
    work.decode_ns += source_ns;
    work.resize_ns += now_ns() - verified - source_ns;
    return outcome;
  } catch (const std::bad_alloc&) {
    return {E18_NO_MEMORY};
  }
}

Outcome PictureMaker::read(const e18_sample& sample) {
  if (sample.fd == E18_MEMORY) {
    bytes_ = reinterpret_cast<const uint8_t*>(sample.offset);
    return {};
  }
  if (capacity_ < sample.length) {
    buffer_.reset(static_cast<uint8_t*>(std::malloc(sample.length)));
    capacity_ = buffer_ ? sample.length : 0;
    if (!buffer_) return {E18_NO_MEMORY};
  }
  bytes_ = buffer_.get();
  for (uint64_t have = 0; have < sample.length;) {
    const ssize_t got = pread(sample.fd, &buffer_[have], sample.length - have, static_cast<off_t>(sample.offset + have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return {E18_READ_FAILED, errno};
    if (got == 0) return {E18_SHORT, static_cast<int64_t>(have)};
    have += static_cast<uint64_t>(got);
  }
  return {};
}

// What is not a plain JPEG is libjpeg-turbo's, and so is the judgement on a damaged one.
Outcome PictureMaker::from_jpeg(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, uint64_t& source_ns) {
  const bool done = !(sample.options & E18_LIBJPEG) && from_baseline(sample, shape, pixels, source_ns);
  return done ? Outcome{} : from_any_jpeg(sample, shape, pixels, source_ns);
}

bool PictureMaker::from_baseline(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, uint64_t& source_ns) {
  const uint64_t began = now_ns();
  if (!baseline_.open(bytes_, sample.length)) return false;
  if (uint32_t(baseline_.width()) != sample.width || uint32_t(baseline_.height()) != sample.height) return false;
  const int shrink = plan(sample, shape);
  const Axis &columns = resizer_.columns(), &rows = resizer_.rows();
  if (!baseline_.start(shrink, shape.channels == 1, columns.first, columns.end, rows.first, rows.end,
                       sample.rows, sample.num_rows))
    return false;
  source_ns += now_ns() - began;
  return resizer_.run(baseline_, baseline_.row_pixels(), pixels, source_ns);
}

Outcome PictureMaker::from_any_jpeg(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, uint64_t& source_ns) {
  const uint64_t began = now_ns();
  const auto failed = [&]() -> Outcome {
    if (jpeg_.too_many_scans()) return {E18_TOO_LARGE};
    if (jpeg_.warned()) return {E18_WARNED, 0, jpeg_.message()};
    return {jpeg_.out_of_memory() ? E18_NO_MEMORY : E18_NOT_DECODED, 0, jpeg_.message()};
  };
  if (!jpeg_.open(bytes_, sample.length, sample.options & E18_TOLERANT)) return failed();
  if (uint32_t(jpeg_.width()) != sample.width || uint32_t(jpeg_.height()) != sample.height)
    return {E18_WRONG_SIZE, int64_t(jpeg_.width()) << 16 | jpeg_.height()};
  const int shrink = plan(sample, shape);
  const Axis &columns = resizer_.columns(), &rows = resizer_.rows();
  if (!jpeg_.start(shrink, shape.channels == 1, columns.first, columns.end, rows.first)) return failed();
  source_ns += now_ns() - began;
  if (!resizer_.run(jpeg_, jpeg_.row_pixels(), pixels, source_ns)) return failed();
  return {};
}

// Returns how far to shrink a JPEG.
int PictureMaker::plan(const e18_sample& sample, const e18_shape& shape) {
  const int shrink = shrink_for(std::fmin(double(sample.box_width) / shape.width, double(sample.box_height) / shape.height));
  const auto across = [shrink](uint32_t side) { return static_cast<int>((side + shrink - 1) / shrink); };
  resizer_.plan(shrunk(sample, shrink), across(sample.width), across(sample.height), shape.width, shape.height,
                shape.channels == 1 ? 1 : 4, sample.mirror);
  return shrink;
}

Outcome PictureMaker::from_raw(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, uint64_t& source_ns) {
  const int width = static_cast<int>(sample.width), height = static_cast<int>(sample.height);
  const size_t stride = size_t(width) * shape.raw_channels;
  if (stride * height != sample.length) return {E18_WRONG_SIZE, int64_t(width) << 16 | height};
  resizer_.plan(shrunk(sample, 1), width, height, shape.width, shape.height, shape.channels == 1 ? 1 : 4, sample.mirror);
  RawRows rows(bytes_ + stride * resizer_.rows().first, width, shape.raw_channels, shape.channels);
  resizer_.run(rows, width, pixels, source_ns);
  return {};
}

}  // namespace eighteen
