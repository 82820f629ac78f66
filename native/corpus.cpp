#include "corpus.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace eighteen {

size_t below(Random& random, size_t limit) { return limit ? random() % limit : 0; }

std::vector<Bytes> read_all(const char* folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> files;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}

void mutate(Bytes& bytes, const Bytes& other, Random& random) {
  static const uint8_t telling[] = {0x00, 0x01, 0x7F, 0x80, 0xFF, 0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE1};
  // Half of the changes fall into the first bytes, where the headers are.
  const size_t place = below(random, random() & 1 ? std::min<size_t>(bytes.size(), 700) : bytes.size());
  const size_t length = std::min(bytes.size() - place, 1 + below(random, random() & 1 ? 8 : 400));
  const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(place), end = at + static_cast<std::ptrdiff_t>(length);
  switch (random() % 7) {
    case 0: if (place < bytes.size()) bytes[place] ^= static_cast<uint8_t>(1u << random() % 8); break;
    case 1: if (place < bytes.size()) bytes[place] = telling[random() % std::size(telling)]; break;
    case 2: if (place < bytes.size()) bytes[place] = static_cast<uint8_t>(random()); break;
    case 3: bytes.erase(at, end); break;
    case 4: { const Bytes again(at, end); bytes.insert(at, again.begin(), again.end()); break; }
    case 5: bytes.resize(place); break;
    case 6: {
      const size_t from = below(random, other.size()), num = std::min(length, other.size() - from);
      std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(from), num, at);
      break;
    }
  }
}

}  // namespace eighteen
