// Compares the decoder for plain JPEGs with libjpeg-turbo: coefficients and pixels have to be the same.
//
//   agree NUM_MUTATED FOLDER...      each file of the folders, and as many damaged ones
//
// What the decoder for plain JPEGs does not take is no difference; what it takes, libjpeg-turbo has to take without a
// warning.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "corpus.h"
#include "crc32c.h"
#include "eighteen.h"
#include "header.h"
#include "jpeg.h"
#include "scan.h"

namespace {

using eighteen::Bytes;
using eighteen::Random;

constexpr uint64_t MAX_PIXELS = 4'000'000;
constexpr int MAX_ROWS = 8192;
constexpr int NUM_BOXES = 4;  // of a file

struct Blocks {
  int width, height;  // blocks
  std::vector<int16_t> coefficients;  // [height, width, 64], natural order
  int16_t* at(int x, int y) { return &coefficients[(size_t(y) * width + x) * 64]; }
};
using Picture = std::vector<Blocks>;

bool read_plain(const Bytes& bytes, Picture& picture) {
  static eighteen::Scan scan;
  eighteen::Header header;
  if (!header.parse(bytes.data(), bytes.size())) return false;
  if (uint64_t(header.width) * header.height > MAX_PIXELS) return false;
  if (!scan.start(header, bytes.data() + bytes.size())) return false;
  const auto &luma = header.components[0];
  const int columns = (header.width + 8 * luma.across - 1) / (8 * luma.across);
  const int rows = (header.height + 8 * luma.down - 1) / (8 * luma.down);
  picture.clear();
  for (int c = 0; c < header.num_components; ++c) {
    const int across = columns * header.components[c].across, down = rows * header.components[c].down;
    picture.push_back({across, down, std::vector<int16_t>(size_t(across) * down * 64)});
  }
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      if (!scan.read_mcu()) return false;
      const eighteen::Scan::Block* block = scan.blocks();
      for (int c = 0; c < header.num_components; ++c) {
        const int across = header.components[c].across, down = header.components[c].down;
        for (int n = 0; n < across * down; ++n, ++block)
          std::memcpy(picture[c].at(column * across + n % across, row * down + n / across), block->coefficients, 128);
      }
    }
    if (!scan.end_row()) return false;
  }
  return true;
}

// Reads the whole picture without reading a block: what is skipped must end where what is read ends.
bool skip_plain(const Bytes& bytes, const Picture& picture) {
  static eighteen::Scan scan;
  eighteen::Header header;
  if (!header.parse(bytes.data(), bytes.size()) || !scan.start(header, bytes.data() + bytes.size())) return false;
  const auto& luma = header.components[0];
  for (int row = 0; row < picture[0].height / luma.down; ++row) {
    if (!scan.skip_mcus(picture[0].width / luma.across)) return false;
    if (!scan.end_row()) return false;
  }
  for (size_t c = 0; c < picture.size(); ++c)
    if (scan.dc(int(c)) != picture[c].coefficients[picture[c].coefficients.size() - 64]) return false;
  return true;
}

struct Escape {
  std::jmp_buf place;
  char message[JMSG_LENGTH_MAX];
  bool is_after_scan;  // what comes after the last MCU matters to nobody who wants pixels
};

bool is_after_scan(j_common_ptr info) {
  const jpeg_decompress_struct& picture = *reinterpret_cast<j_decompress_ptr>(info);
  return picture.total_iMCU_rows && picture.input_iMCU_row >= picture.total_iMCU_rows;
}

[[noreturn]] void give_up(j_common_ptr info) {
  Escape& escape = *static_cast<Escape*>(info->client_data);
  escape.is_after_scan = is_after_scan(info);
  info->err->format_message(info, escape.message);
  std::longjmp(escape.place, 1);
}

void warn(j_common_ptr info, int level) {
  if (level < 0 && !is_after_scan(info)) give_up(info);
}

// Whether libjpeg-turbo reads the same, without a warning. Blocks that only fill up the last MCUs are not looked at.
bool is_same_to_libjpeg(const Bytes& bytes, Picture& picture, Escape& escape) {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  info.client_data = &escape;
  errors.error_exit = give_up;
  errors.emit_message = warn;
  if (setjmp(escape.place)) return jpeg_destroy_decompress(&info), escape.is_after_scan;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, bytes.data(), static_cast<unsigned long>(bytes.size()));
  jpeg_read_header(&info, TRUE);
  jvirt_barray_ptr* arrays = jpeg_read_coefficients(&info);
  bool same = info.num_components == int(picture.size());
  std::strcpy(escape.message, "other coefficients");
  for (int c = 0; same && c < info.num_components; ++c) {
    const jpeg_component_info& component = info.comp_info[c];
    for (JDIMENSION y = 0; same && y < component.height_in_blocks; ++y) {
      JBLOCKARRAY row = info.mem->access_virt_barray(reinterpret_cast<j_common_ptr>(&info), arrays[c], y, 1, FALSE);
      same = !std::memcmp(row[0], picture[c].at(0, int(y)), component.width_in_blocks * sizeof(JBLOCK));
    }
  }
  jpeg_destroy_decompress(&info);
  return same;
}

int make(e18_sample sample, uint32_t options, e18_shape shape, Bytes& pixels) {
  sample.options = options;
  pixels.assign(size_t(shape.height) * shape.width * shape.channels, 0);
  int64_t detail;
  char message[JMSG_LENGTH_MAX];
  return e18_make(&sample, shape, pixels.data(), &detail, message, sizeof message);
}

// A random box at a random size, made by both.
bool has_same_pixels(const Bytes& bytes, int width, int height, Random& random) {
  e18_sample sample{};
  sample.offset = reinterpret_cast<uint64_t>(bytes.data()), sample.length = bytes.size(), sample.fd = E18_MEMORY;
  sample.crc32c = eighteen::crc32c(bytes.data(), bytes.size());
  sample.width = uint32_t(width), sample.height = uint32_t(height);
  sample.box_left = eighteen::below(random, sample.width), sample.box_top = eighteen::below(random, sample.height);
  sample.box_width = 1 + eighteen::below(random, sample.width - size_t(sample.box_left));
  sample.box_height = 1 + eighteen::below(random, sample.height - size_t(sample.box_top));
  sample.mirror = random() & 1;
  const e18_shape shape{int32_t(1 + random() % 200), int32_t(1 + random() % 200), random() % 4 ? 3 : 1, 0};
  Bytes ours, theirs;
  const int status = make(sample, 0, shape, ours);
  e18_row rows[MAX_ROWS];
  sample.rows = rows;
  sample.num_rows = static_cast<uint32_t>(e18_find_rows(bytes.data(), bytes.size(), rows, MAX_ROWS));
  sample.rows_crc32c = eighteen::crc32c(reinterpret_cast<const uint8_t*>(rows), sizeof(e18_row) * sample.num_rows);
  Bytes by_rows;
  const int again = make(sample, 0, shape, by_rows);
  const int other = make(sample, E18_LIBJPEG, shape, theirs);
  return status == other && again == other && (status != E18_OK || (ours == theirs && by_rows == theirs));
}

struct Counts {
  long files = 0, plain = 0, differences = 0;
};

void compare(const Bytes& bytes, const std::string& name, Random& random, Counts& counts) {
  ++counts.files;
  Picture picture;
  if (!read_plain(bytes, picture)) return;
  ++counts.plain;
  static Escape escape;
  const auto report = [&](const char* what) { std::printf("%s: %s\n", name.c_str(), what), ++counts.differences; };
  if (!is_same_to_libjpeg(bytes, picture, escape)) report(escape.message);
  if (!skip_plain(bytes, picture)) report("skipping ends elsewhere");
  eighteen::Header header;
  header.parse(bytes.data(), bytes.size());
  for (int n = 0; n < NUM_BOXES; ++n)
    if (!has_same_pixels(bytes, header.width, header.height, random)) report("other pixels");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "agree NUM_MUTATED FOLDER...\n"), 2;
  std::vector<Bytes> corpus;
  for (int n = 2; n < argc; ++n)
    for (Bytes& bytes : eighteen::read_all(argv[n])) corpus.push_back(std::move(bytes));
  if (corpus.empty()) return std::fprintf(stderr, "no files\n"), 2;
  Random random;
  Counts whole, mutated;
  for (size_t n = 0; n < corpus.size(); ++n) compare(corpus[n], "file " + std::to_string(n), random, whole);
  for (long n = std::atol(argv[1]); n--;) {
    Bytes bytes = corpus[eighteen::below(random, corpus.size())];
    for (size_t changes = 1 + eighteen::below(random, 4); changes--;)
      eighteen::mutate(bytes, corpus[eighteen::below(random, corpus.size())], random);
    compare(bytes, "mutated file " + std::to_string(n), random, mutated);
  }
  for (const auto& [counts, what] : {std::pair{whole, "whole"}, {mutated, "mutated"}})
    std::printf("%ld %s files, %ld of them plain JPEGs: %ld differences\n", counts.files, what, counts.plain, counts.differences);
  return whole.differences || mutated.differences;
}
