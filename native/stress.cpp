// Many batches through many threads, waited for, cancelled and closed at any moment: for the thread sanitizer.
//
//   stress FOLDER SECONDS      FOLDER: pictures
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <memory>
#include <random>
#include <thread>
#include <unistd.h>
#include <vector>

#include "clock.h"
#include "crc32c.h"
#include "eighteen.h"
#include "jpeg.h"

namespace {

constexpr e18_shape SHAPE{32, 32, 3, 0};

// A picture's file, as a sample whose box is the whole picture.
e18_sample whole(const std::filesystem::path& path) {
  e18_sample sample{};
  sample.fd = open(path.c_str(), O_RDONLY);
  sample.length = std::filesystem::file_size(path);
  std::vector<uint8_t> bytes(sample.length);
  if (pread(sample.fd, bytes.data(), bytes.size(), 0) != ssize_t(bytes.size())) std::abort();
  sample.crc32c = eighteen::crc32c(bytes.data(), bytes.size());
  eighteen::Jpeg jpeg;
  if (jpeg.open(bytes.data(), bytes.size(), false)) sample.width = jpeg.width(), sample.height = jpeg.height();
  sample.box_width = sample.width, sample.box_height = sample.height;
  return sample;
}

struct Batch {
  std::vector<e18_sample> samples;
  std::vector<uint8_t> pixels;
  std::vector<int32_t> statuses;
  std::vector<int64_t> details;
  e18_batch* handle;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "stress FOLDER SECONDS\n"), 2;
  std::vector<e18_sample> corpus;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[1]))
    if (entry.is_regular_file()) corpus.push_back(whole(entry.path()));
  std::mt19937 random;
  const uint64_t end = eighteen::now_ns() + static_cast<uint64_t>(std::strtod(argv[2], nullptr) * 1e9);
  long decoders = 0, batches = 0, filled = 0;
  for (; eighteen::now_ns() < end; ++decoders) {
    e18_decoder* decoder = e18_open(1 + int(random() % 6));
    std::vector<std::unique_ptr<Batch>> under_way;
    for (int round = int(random() % 12); round--; ++batches) {
      auto batch = std::make_unique<Batch>();
      for (size_t num = random() % 40; num--;) batch->samples.push_back(corpus[random() % corpus.size()]);
      const size_t num = batch->samples.size();
      batch->pixels.resize(num * SHAPE.height * SHAPE.width * SHAPE.channels);
      batch->statuses.resize(num), batch->details.resize(num);
      batch->handle = e18_submit(decoder, batch->samples.data(), int64_t(num), SHAPE, batch->pixels.data(),
                                 batch->statuses.data(), batch->details.data());
      under_way.push_back(std::move(batch));
    }
    std::thread canceller;
    if (random() % 3 == 0) canceller = std::thread([decoder] { e18_cancel(decoder); });
    const size_t waited_for = random() % 2 ? under_way.size() : under_way.size() / 2;  // closing ends the others
    for (size_t n = 0; n < waited_for; ++n) {
      e18_work work;
      char message[200];
      e18_wait(decoder, under_way[n]->handle, &work, message, sizeof message);
      filled += std::count(under_way[n]->statuses.begin(), under_way[n]->statuses.end(), int32_t(E18_OK));
    }
    if (canceller.joinable()) canceller.join();
    e18_close(decoder);
  }
  std::printf("%ld decoders, %ld batches, %ld pictures filled\n", decoders, batches, filled);
  return filled ? 0 : 1;
}
