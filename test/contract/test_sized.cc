/* Sized deallocation: a size that is right never ends the process.
 *
 * Written in: C++17 [new.delete.single], [new.delete.array] (delete gets the size and the alignment that new got);
 * C23 7.24.3.4, 7.24.3.5 (free_sized gets the size that was requested last, by malloc, calloc or realloc;
 * free_aligned_sized gets what aligned_alloc got). */
#include <algorithm>
#include <any>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <memory_resource>
#include <new>
#include <numeric>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common.h" /* last: cmocka defines fail as a macro */

/* All up to a bit over 1 KiB, the edges of all classes, and many up to 100000. */
static std::vector<size_t> all_sizes()
{
    std::vector<size_t> sizes;
    for (size_t size = 0; size <= 1300; size++)
        sizes.push_back(size);
    for (size_t size = 1301; size <= 100000; size += 37)
        sizes.push_back(size);
    for (size_t power = 1024; power <= 65536; power *= 2)
        for (size_t step = 0; step < 8; step++)
            for (size_t edge = power + step * power / 8, i = 0; i < 3; i++)
                sizes.push_back(edge - 1 + i);
    for (size_t size : {1u << 20, (1u << 20) + 1, 3u << 20})
        sizes.push_back(size);
    return sizes;
}

/* -- every form ----------------------------------------------------------------------------------------------- */

static void new_and_delete(size_t size)
{
    void *objects[] = {::operator new(size), ::operator new[](size), ::operator new(size, std::nothrow),
                       ::operator new[](size, std::nothrow)};
    for (void *object : objects)
        assert_non_null(object);
    ::operator delete(objects[0], size);
    ::operator delete[](objects[1], size);
    ::operator delete(objects[2], size);
    ::operator delete[](objects[3], size);
}

static void new_and_delete_aligned(size_t size, std::align_val_t align)
{
    void *objects[] = {::operator new(size, align), ::operator new[](size, align),
                       ::operator new(size, align, std::nothrow), ::operator new[](size, align, std::nothrow)};
    for (void *object : objects)
        assert_true(object != nullptr && is_aligned(object, (size_t)align));
    ::operator delete(objects[0], size, align);
    ::operator delete[](objects[1], size, align);
    ::operator delete(objects[2], size, align);
    ::operator delete[](objects[3], size, align);
}

static void test_every_size(void **)
{
    errno = EDOM;
    for (size_t size : all_sizes())
        new_and_delete(size);
    assert_int_equal(errno, EDOM);
}

static void test_every_size_and_alignment(void **)
{
    const std::vector<size_t> sizes = all_sizes();
    errno = EDOM;
    for (size_t align = 1; align <= 65536; align *= 2)
        for (size_t i = 0; i < sizes.size(); i += align < 4096 ? 3 : 7)
            new_and_delete_aligned(sizes[i], std::align_val_t(align));
    for (size_t align = 1 << 17; align <= 1 << 22; align *= 2)
        for (size_t size = 0; size < 300000; size = size * 2 + 1)
            new_and_delete_aligned(size, std::align_val_t(align));
    assert_int_equal(errno, EDOM);
}

/* Many at once: they come from slabs, and go there. */
static void test_many_of_each_size(void **)
{
    static void *objects[3000];
    for (size_t size = 0; size <= 40000; size += 1 + size / 7) {
        const size_t count = size < 1000 ? COUNT(objects) : 100;
        for (size_t i = 0; i < count; i++)
            objects[i] = ::operator new(size);
        for (size_t i = 0; i < count; i++)
            ::operator delete(objects[i], size);
    }
    malloc_trim(0);
}

/* NULL has no size. */
static void test_null_with_any_size(void **)
{
    errno = EDOM;
    for (size_t size : {(size_t)0, (size_t)1, (size_t)1000, (size_t)5000, (size_t)40000, SIZE_MAX}) {
        ::operator delete(opaque(nullptr), size);
        ::operator delete[](opaque(nullptr), size);
        ::operator delete(opaque(nullptr), size, std::align_val_t(64));
        ::operator delete[](opaque(nullptr), size, std::align_val_t(4096));
        if (free_sized != nullptr) {
            free_sized(nullptr, size);
            free_aligned_sized(nullptr, 64, size);
        }
    }
    assert_int_equal(errno, EDOM);
}

/* A program may use all of an object, and then knows no better. */
static void test_usable_sizes(void **)
{
    for (size_t size : all_sizes()) {
        void *object = ::operator new(size);
        ::operator delete(object, malloc_usable_size(object));
    }
}

/* -- what compilers make of it -------------------------------------------------------------------------------- */

template <size_t Bytes, size_t Align> struct alignas(Align) cell {
    char bytes[Bytes];
    cell() { bytes[0] = 1; }
    ~cell() { bytes[0] = 0; } /* so arrays have a cookie */
};

struct base {
    virtual ~base() = default;
    int number = 1;
};

template <class Cell> struct derived : base {
    Cell cell;
};

template <class Cell> static void use()
{
    for (size_t count = 0; count < 70; count += 1 + count / 4) {
        delete new (std::nothrow) Cell;
        delete[] new Cell[count];
        std::unique_ptr<Cell[]> array(new Cell[count]);
        std::unique_ptr<base> one(new derived<Cell>);
        std::shared_ptr<Cell> shared = std::make_shared<Cell>(), two(new Cell);
        std::vector<Cell> cells(count);
        cells.shrink_to_fit();
        std::list<Cell> list(count);
        std::deque<Cell> queue(count);
    }
}

static void test_arrays_and_bases(void **)
{
    use<cell<1, 1>>();
    use<cell<7, 8>>();
    use<cell<24, 8>>();
    use<cell<100, 16>>();
    use<cell<40, 32>>();
    use<cell<64, 64>>();
    use<cell<1000, 128>>();
    use<cell<5000, 8>>();
    use<cell<4096, 4096>>();
}

/* -- what the C++ library makes of it ------------------------------------------------------------------------- */

static void strings_and_streams(unsigned seed)
{
    std::minstd_rand random(seed);
    std::map<std::string, std::vector<double>> table;
    std::unordered_map<std::string, std::set<int>> sets;
    std::ostringstream out;
    for (int i = 0; i < 3000; i++) {
        std::string key(random() % 90, 'a');
        key += std::to_string(random() % 300);
        table[key].push_back(i);
        sets[key].insert(i);
        out << key << ' ' << i << '\n';
        if (i % 3 == 0)
            table.erase(table.begin());
        if (i % 100 == 0)
            sets.rehash(random() % 1000);
    }
    std::string text = out.str();
    text.reserve(text.size() * 2);
    text.shrink_to_fit();
    std::istringstream in(text);
    for (std::string word; in >> word;)
        require(!word.empty());
}

static void algorithms(unsigned seed)
{
    std::minstd_rand random(seed);
    std::vector<std::string> words(2000);
    for (std::string &word : words)
        word.assign(random() % 40, (char)('a' + random() % 26));
    std::stable_sort(words.begin(), words.end());
    std::stable_partition(words.begin(), words.end(), [](const std::string &a) { return a.size() % 2 == 0; });
    std::inplace_merge(words.begin(), words.begin() + 1000, words.end());
    require(words.size() == 2000);
}

static void the_rest_of_the_library()
{
    std::any any = std::string(100, 'x');
    any = std::vector<int>(1000);
    std::function<int(int)> function = [big = std::vector<int>(30)](int x) { return x + (int)big.size(); };
    auto copy = function;
    require(copy(1) == 31);
    std::future<std::string> future = std::async(std::launch::async, [] { return std::string(500, 'y'); });
    require(future.get().size() == 500);
    std::regex regex("(a+b|c[d-f]*)+x?");
    require(std::regex_match("aabcde", regex));
    std::pmr::unsynchronized_pool_resource pool;
    std::pmr::monotonic_buffer_resource buffer;
    for (std::pmr::memory_resource *resource :
         {(std::pmr::memory_resource *)&pool, (std::pmr::memory_resource *)&buffer,
          std::pmr::new_delete_resource()}) {
        std::pmr::vector<std::pmr::string> strings(resource);
        for (size_t i = 0; i < 500; i++)
            strings.emplace_back(i, 'z');
        void *wide = resource->allocate(1000, 256);
        resource->deallocate(wide, 1000, 256);
    }
    try {
        throw std::runtime_error(std::string(200, 'e'));
    } catch (const std::exception &error) {
        require(strlen(error.what()) == 200);
    }
}

static void test_the_library_in_threads(void **)
{
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; i++)
        threads.emplace_back([i] {
            strings_and_streams(i + 1);
            algorithms(i + 1);
            the_rest_of_the_library();
        });
    for (std::thread &thread : threads)
        thread.join();
}

/* -- threads and processes ------------------------------------------------------------------------------------ */

struct parcel {
    void *object;
    size_t size, align;
};

static std::vector<parcel> pack(unsigned seed, size_t count)
{
    std::minstd_rand random(seed);
    std::vector<parcel> parcels(count);
    for (parcel &parcel : parcels) {
        parcel.size = random() % 4 ? random() % 300 : random() % 60000;
        parcel.align = (size_t)1 << random() % 13;
        parcel.object = random() % 2 ? ::operator new(parcel.size) : nullptr;
        if (parcel.object != nullptr)
            parcel.align = 0;
        else
            parcel.object = ::operator new[](parcel.size, std::align_val_t(parcel.align));
    }
    return parcels;
}

static void unpack(const std::vector<parcel> &parcels)
{
    for (const parcel &parcel : parcels)
        if (parcel.align == 0)
            ::operator delete(parcel.object, parcel.size);
        else
            ::operator delete[](parcel.object, parcel.size, std::align_val_t(parcel.align));
}

static void test_deleted_in_another_thread(void **)
{
    for (unsigned round = 0; round < scaled(10); round++) {
        std::vector<std::vector<parcel>> all(4);
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < 4; i++)
            threads.emplace_back([&all, i, round] { all[i] = pack(round * 4 + i + 1, 1500); });
        for (std::thread &thread : threads)
            thread.join();
        threads.clear();
        for (unsigned i = 0; i < 4; i++)
            threads.emplace_back([&all, i] { unpack(all[(i + 1) % 4]); });
        for (std::thread &thread : threads)
            thread.join();
    }
}

static void test_deleted_in_a_child(void **)
{
    std::vector<parcel> parcels = pack(1, 3000);
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        unpack(parcels);
        unpack(pack(2, 3000));
        _exit(0);
    }
    unpack(parcels);
    assert_true(child > 0 && ended_well(wait_for(child)));
}

/* At the limit, objects come singly. */
static void role_scarce(const char *)
{
    const rlimit limit = {256 * MIB, 256 * MIB};
    std::vector<parcel> parcels;
    parcels.reserve(1 << 21);
    require(setrlimit(RLIMIT_DATA, &limit) == 0);
    for (int round = 0; round < 3; round++) {
        for (size_t size = 0;; size = (size + 4097) % 70000) {
            void *object = ::operator new(size, std::nothrow);
            if (object == nullptr || parcels.size() == parcels.capacity())
                break;
            memset(object, 1, size);
            parcels.push_back({object, size, 0});
        }
        unpack(parcels);
        parcels.clear();
    }
}

static void test_where_memory_is_scarce(void **)
{
    assert_role_succeeds("scarce", nullptr);
}

/* An operator's way out, where a program cannot be mended. */
static void role_unchecked(const char *)
{
    for (size_t size : {1, 100, 5000, 100000}) {
        ::operator delete(::operator new(size), size * 3);
        ::operator delete(::operator new(size), size * 3, std::align_val_t(32));
        ::operator delete[](::operator new[](size * 3), size);
        if (free_sized != nullptr)
            free_sized(malloc(size), size * 3);
    }
}

static void test_an_option_allows_wrong_sizes(void **)
{
    launch launch = {};
    skip_on_glibc("it looks at no size");
    launch.environment[0] = "SLABMALLOC_OPTIONS=check_sizes=0";
    assert_role_succeeds("unchecked", &launch);
}

/* -- C23 ------------------------------------------------------------------------------------------------------ */

static void release(void *object, size_t size)
{
    if (free_sized != nullptr)
        free_sized(object, size);
    else
        free(object);
}

/* realloc leaves many objects where they are. */
static void test_resized_objects(void **)
{
    std::minstd_rand random(7);
    for (unsigned round = 0; round < scaled(30000); round++) {
        size_t size = random() % 5 ? random() % 2000 : random() % 200000;
        char *object = (char *)(round % 3 ? malloc(size) : calloc(1, size));
        for (unsigned steps = random() % 6; steps > 0; steps--) {
            size = random() % 3 == 0 ? random() % 200000 : size * (random() % 200) / 100;
            size = std::max<size_t>(size % 3000000, 1);
            object = (char *)realloc(object, size);
            assert_non_null(object);
            object[size - 1] = 1;
        }
        release(object, size);
    }
}

static void test_every_change_of_size(void **)
{
    const size_t sizes[] = {
        0,     1,     15,    16,    17,     64,     65,      100,           255,     256,     257,   512,
        1000,  1024,  1025,  2048,  2049,   4096,   9000,    10240,         20000,   32767,   32768, 32769,
        36864, 40000, 65536, 65537, 100000, 131072, 1 << 20, (1 << 20) + 1, 3 << 20, 40 << 20};
    for (size_t from : sizes)
        for (size_t to : sizes)
            if (to != 0)
                release(realloc(malloc(from), to), to);
}

static void test_aligned_alloc(void **)
{
    if (free_aligned_sized == nullptr)
        skip_on_glibc("no free_aligned_sized before 2.42");
    for (size_t align = 8; align <= 65536; align *= 2)
        for (size_t size = 0; size <= 200000; size += align)
            if (size < 20 * align || size % (align * 13) == 0)
                free_aligned_sized(aligned_alloc(align, size), align, size);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"scarce", role_scarce}, {"unchecked", role_unchecked}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_size),
        cmocka_unit_test(test_every_size_and_alignment),
        cmocka_unit_test(test_many_of_each_size),
        cmocka_unit_test(test_null_with_any_size),
        cmocka_unit_test(test_usable_sizes),
        cmocka_unit_test(test_arrays_and_bases),
        cmocka_unit_test(test_the_library_in_threads),
        cmocka_unit_test(test_deleted_in_another_thread),
        cmocka_unit_test(test_deleted_in_a_child),
        cmocka_unit_test(test_where_memory_is_scarce),
        cmocka_unit_test(test_an_option_allows_wrong_sizes),
        cmocka_unit_test(test_resized_objects),
        cmocka_unit_test(test_every_change_of_size),
        cmocka_unit_test(test_aligned_alloc),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
