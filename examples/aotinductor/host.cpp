// Runs a package of package.py without Python, and compares its logits with those of Python.
//
//     host digits.aoti.pt2 digits.aoti.input.bin digits.aoti.logits.bin 2 1 8 8
//
// The numbers are the input's shape. Exit code 0: equal to 1e-5 of the largest logit.

#include <fstream>
#include <iostream>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

torch::Tensor read(const char* path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error(std::string("cannot open ") + path);
  const auto size = file.tellg();
  auto values = torch::empty({static_cast<int64_t>(size / sizeof(float))});
  file.seekg(0).read(reinterpret_cast<char*>(values.data_ptr()), size);
  return values;
}

int main(int count, char** arguments) try {
  if (count < 5) {
    std::cerr << "usage: host PACKAGE INPUT LOGITS SIZE...\n";
    return 2;
  }
  std::vector<int64_t> shape;
  for (int i = 4; i < count; ++i) shape.push_back(std::stoll(arguments[i]));
  c10::InferenceMode mode;
  torch::inductor::AOTIModelPackageLoader loader(arguments[1]);
  const auto logits = loader.run({read(arguments[2]).reshape(shape)}).at(0);
  const auto expected = read(arguments[3]).reshape(logits.sizes());
  const double error = ((logits - expected).abs().max() / expected.abs().max()).item<double>();
  std::cout << "largest difference, relative to the largest logit: " << error << "\n";
  return error <= 1e-5 ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 2;
}
