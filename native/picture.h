#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "baseline.h"
#include "eighteen.h"
#include "jpeg.h"
#include "resize.h"

namespace eighteen {

// What became of a sample.
struct Outcome {
  int32_t status = E18_OK;
  int64_t detail = 0;
  const char* message = "";  // until the next picture
};

// One thread's means to fill the place of one sample: reads, verifies, decodes, resizes. Its memory is kept.
class PictureMaker {
 public:
  // E18_READING or E18_DECODING, for other threads to see.
  int32_t stage() const { return stage_.load(std::memory_order_relaxed); }

  // pixels: [shape.height, shape.width, shape.channels]      work: what it took is added
  Outcome make(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, e18_work& work);

 private:
  Outcome read(const e18_sample& sample);
  Outcome from_jpeg(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, uint64_t& source_ns);
  Outcome from_any_jpeg(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, uint64_t& source_ns);
  bool from_baseline(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, uint64_t& source_ns);
  int plan(const e18_sample& sample, const e18_shape& shape);
  Outcome from_raw(const e18_sample& sample, const e18_shape& shape, uint8_t* pixels, uint64_t& source_ns);

  std::atomic<int32_t> stage_{E18_READING};

  struct Free {
    void operator()(uint8_t* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<uint8_t[], Free> buffer_;  // never initialised
  size_t capacity_ = 0;
  const uint8_t* bytes_ = nullptr;  // of the sample
  Baseline baseline_;
  Jpeg jpeg_;
  Resizer resizer_;
};

}  // namespace eighteen
