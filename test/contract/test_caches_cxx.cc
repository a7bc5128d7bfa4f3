/* include/slabmalloc.h in C++: an allocator for the nodes of containers, as programs would write it, and a
 * constructor and destructor that are a class's.
 *
 * Written in: include/slabmalloc.h ("C and C++ can include it"); C++17 [allocator.requirements]. */
#include "caches.h"

#include <list>
#include <map>
#include <memory>
#include <new>
#include <string>

template <class T> struct cache_allocator {
    using value_type = T;
    cache_allocator() = default;
    template <class Other> cache_allocator(const cache_allocator<Other> &) {}

    static slab_cache *cache()
    {
        static slab_cache *const one = [] {
            slab_cache_attr attr{};
            attr.align = alignof(T);
            attr.flags = SLAB_NO_MERGE | SLAB_ACCOUNT;
            return make_cache("nodes", sizeof(T), &attr);
        }();
        return one;
    }

    T *allocate(size_t count)
    {
        void *object = count == 1 ? slab_cache_alloc(cache()) : std::malloc(count * sizeof(T));
        if (object == nullptr)
            throw std::bad_alloc();
        return static_cast<T *>(object);
    }

    void deallocate(T *object, size_t) { ::operator delete(object); }
    template <class Other> bool operator==(const cache_allocator<Other> &) const { return true; }
    template <class Other> bool operator!=(const cache_allocator<Other> &) const { return false; }
};

static void nodes_of_containers(const char *)
{
    std::map<int, std::string, std::less<int>, cache_allocator<std::pair<const int, std::string>>> map;
    std::list<int, cache_allocator<int>> list;
    for (int i = 0; i < 20000; i++) {
        map.emplace(i * 7919 % 20000, std::to_string(i));
        list.push_back(i);
    }
    for (int i = 0; i < 20000; i += 2)
        map.erase(i);
    int next = 0;
    for (int number : list)
        require(number == next++);
    require(map.size() == 10000 && map.at(7919) == "1");
    list.clear();
    map.clear();
    size_t visited = 0;
    require(slab_cache_foreach(
                [](slab_cache *cache, void *context) {
                    if (strcmp(figures(cache).name, "nodes") == 0) {
                        require(active(cache) == 0);
                        ++*static_cast<size_t *>(context);
                    }
                    return 0;
                },
                &visited) == 0);
    require(visited == 2);
}

struct session {
    std::string name = "nobody";
};

static void objects_stay_constructed(const char *)
{
    slab_cache_attr attr{};
    attr.align = alignof(session);
    attr.ctor = [](void *object, void *) { new (object) session; };
    attr.dtor = [](void *object, void *) { static_cast<session *>(object)->~session(); };
    slab_cache *cache = make_cache("sessions", sizeof(session), &attr);
    session *sessions[1000];
    for (unsigned round = 0; round < 3; round++) {
        for (session *&one : sessions) {
            one = static_cast<session *>(take(cache));
            require(one->name == "nobody");
            one->name = "somebody with a name that is too long for the string itself";
        }
        for (session *one : sessions) {
            one->name = "nobody";
            slab_cache_free(cache, one);
        }
    }
    drop(cache);
}

/* For owners that know of no cache, nor of the program's malloc. */
struct by_name {
    void operator()(void *object) const { slab_free(object); }
};

static void owners_free_by_name(const char *)
{
    slab_cache *cache = make_own("owned", 100);
    for (size_t size = 0; size < 100000; size = size * 2 + 1) {
        std::unique_ptr<void, by_name> object(slab_alloc_node(size, -1)), other(slab_alloc_node(size, 0));
        std::unique_ptr<void, by_name> cached(take(cache)), created(::operator new(size)), none;
        std::shared_ptr<void> shared(slab_alloc_node(size, -1), slab_free);
        require(object && other && cached && shared && active(cache) == 1);
    }
    require(active(cache) == 0);
    drop(cache);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"nodes_of_containers", nodes_of_containers},
        {"objects_stay_constructed", objects_stay_constructed},
        {"owners_free_by_name", owners_free_by_name},
    };
    return run_scenarios("caches in C++", scenarios, COUNT(scenarios), argc, argv);
}
