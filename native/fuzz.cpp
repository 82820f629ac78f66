// Mutates pictures and decodes parts of them: no sanitizer may speak, no input may take long.
//
//   fuzz CORPUS SECONDS [SEED [INPUT]]      INPUT: only this one, as a failure names it
//
// Each input is a pure function of corpus, seed and number. Memory is limited by the sanitizer: see the Makefile.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "clock.h"
#include "corpus.h"
#include "crc32c.h"
#include "eighteen.h"
#include "jpeg.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)());

namespace {

using eighteen::below;
using eighteen::Bytes;
using eighteen::Random;

constexpr uint64_t MAX_NS = 2'000'000'000;  // of processor time for one input
constexpr int MAX_ROWS = 8192;
constexpr int MAX_PIXELS = 100'000'000;  // larger ones are refused before they are opened

uint64_t seed, number;  // of the input in work

void name_input() { std::fprintf(stderr, "input %llu of seed %llu\n", (unsigned long long)number, (unsigned long long)seed); }

// A random part of the picture at a random size; a third of them the whole.
bool decode(const Bytes& bytes, Random& random) {
  static eighteen::Jpeg jpeg;
  e18_sample sample{};
  const bool tolerant = random() & 1;
  sample.options = tolerant ? E18_TOLERANT : 0;
  if (jpeg.open(bytes.data(), bytes.size(), tolerant)) sample.width = jpeg.width(), sample.height = jpeg.height();
  else sample.width = sample.height = 16;
  if (uint64_t(sample.width) * sample.height > MAX_PIXELS) return false;
  sample.offset = reinterpret_cast<uint64_t>(bytes.data()), sample.length = bytes.size(), sample.fd = E18_MEMORY;
  sample.crc32c = eighteen::crc32c(bytes.data(), bytes.size());
  sample.box_width = sample.width, sample.box_height = sample.height, sample.mirror = random() & 1;
  if (random() % 3) {
    sample.box_left = below(random, sample.width), sample.box_top = below(random, sample.height);
    sample.box_width = 1 + below(random, sample.width - sample.box_left);
    sample.box_height = 1 + below(random, sample.height - sample.box_top);
  }
  // Half of them know where their rows are, and half of those wrongly.
  static e18_row rows[MAX_ROWS];
  if (random() & 1) {
    sample.rows = rows;
    sample.num_rows = static_cast<uint32_t>(e18_find_rows(bytes.data(), bytes.size(), rows, MAX_ROWS));
    if (sample.num_rows && random() & 1) {
      e18_row& row = rows[below(random, sample.num_rows)];
      row.bit ^= static_cast<uint32_t>(random() >> random() % 64);
      for (int16_t& dc : row.dc) dc = static_cast<int16_t>(random());
    }
    sample.rows_crc32c = eighteen::crc32c(reinterpret_cast<const uint8_t*>(rows), sizeof(e18_row) * sample.num_rows);
  }
  const e18_shape shape{int32_t(1 + random() % 96), int32_t(1 + random() % 96), random() & 1 ? 3 : 1, 0};
  Bytes pixels(size_t(shape.height) * shape.width * shape.channels);
  int64_t detail;
  char message[200];
  return e18_make(&sample, shape, pixels.data(), &detail, message, sizeof message) == E18_OK;
}

uint64_t cpu_ns() { return static_cast<uint64_t>(std::clock()) * (1'000'000'000 / CLOCKS_PER_SEC); }

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "fuzz CORPUS SECONDS [SEED [INPUT]]\n"), 2;
  const std::vector<Bytes> corpus = eighteen::read_all(argv[1]);
  if (corpus.empty()) return std::fprintf(stderr, "no files in %s\n", argv[1]), 2;
  seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  const bool only_one = argc > 4;
  number = only_one ? std::strtoull(argv[4], nullptr, 10) : 0;
  __sanitizer_set_death_callback(name_input);
  const uint64_t end = eighteen::now_ns() + static_cast<uint64_t>(std::strtod(argv[2], nullptr) * 1e9);
  uint64_t slowest = 0, done = 0, decoded = 0;
  do {
    Random random(seed * 0x9E3779B97F4A7C15ull + number);
    Bytes bytes = corpus[below(random, corpus.size())];
    for (size_t changes = below(random, 9); changes--;) eighteen::mutate(bytes, corpus[below(random, corpus.size())], random);
    const uint64_t began = cpu_ns();
    decoded += decode(bytes, random);
    const uint64_t took = cpu_ns() - began;
    slowest = std::max(slowest, took);
    if (took > MAX_NS) return name_input(), std::fprintf(stderr, "took %.1f s\n", 1e-9 * double(took)), 1;
    ++number, ++done;
  } while (!only_one && eighteen::now_ns() < end);
  std::printf("%llu inputs from %zu files, %llu of them decoded, seed %llu: nothing found, the slowest took %.0f ms\n",
              (unsigned long long)done, corpus.size(), (unsigned long long)decoded, (unsigned long long)seed,
              1e-6 * double(slowest));
}
