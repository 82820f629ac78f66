// What the checks of the native decoder feed it with: files, and damaged ones.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace eighteen {

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;

size_t below(Random& random, size_t limit);

std::vector<Bytes> read_all(const char* folder);  // and the folders in it

// One change of any kind, which may bring in bytes of another file.
void mutate(Bytes& bytes, const Bytes& other, Random& random);

}  // namespace eighteen
