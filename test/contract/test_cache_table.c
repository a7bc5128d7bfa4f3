/* The tables of caches: slab_cache_get_stats, slab_cache_foreach, slab_info.
 *
 * Written in: include/slabmalloc.h; slabinfo(5), and procps, whose slabtop reads each line with one sscanf: the same
 * format stands here. Promised are the kernel's columns of version 2.1, a line a cache in the order of creation, the
 * size classes first, and no lock held while a visitor or a stream does as it likes. */
#include "caches.h"

/* -- figures ----------------------------------------------------------------------------------------------------- */

static void get_stats(const char *argument)
{
    (void)argument;
    enum { LIVE = 1000 };
    void *objects[LIVE];
    slab_cache_stats stats;
    slab_cache *cache = make_own("figures", 104);
    errno = 0;
    require(slab_cache_get_stats(NULL, &stats) == -1 && errno == EINVAL);
    errno = 0;
    require(slab_cache_get_stats(cache, NULL) == -1 && errno == EINVAL);
    stats = figures(cache);
    require(strcmp(stats.name, "figures") == 0 && stats.object_size == 104 && stats.objects_per_slab > 0);
    require(stats.active_objects == 0 && stats.total_objects == 0 && stats.slabs == 0 && stats.limit_bytes == 0);
    require(stats.magazine_rounds == 0 && stats.depot_rounds == 0 && stats.allocations == 0 && stats.frees == 0);
    take_all(cache, objects, LIVE);
    stats = figures(cache);
    require(stats.active_objects == LIVE && stats.total_objects == stats.slabs * stats.objects_per_slab);
    require(stats.active_objects + stats.magazine_rounds + stats.depot_rounds <= stats.total_objects);
    require(stats.refills > 0 && stats.allocations >= LIVE && stats.allocations >= stats.refills);
    give_all(cache, objects, LIVE);
    stats = figures(cache);
    require(stats.active_objects == 0 && stats.magazine_rounds > 0 && stats.drains > 0);
    require(stats.frees >= stats.drains && stats.frees <= LIVE);
    drop(cache);
}

/* The size classes of malloc, and named caches that are no alias. */
static void process_counts_caches(const char *argument)
{
    (void)argument;
    slab_stats before = process_figures();
    slab_cache *cache = make_own("counted", 104), *alias[2];
    alias[0] = make_cache("shared", 104, NULL);
    alias[1] = make_cache("alias", 104, NULL);
    require(before.caches > 10 && process_figures().caches == before.caches + 2);
    uint64_t live = process_figures().live_bytes;
    void *objects[1000];
    take_all(cache, objects, COUNT(objects));
    require(process_figures().live_bytes == live + 104 * COUNT(objects));
    give_all(cache, objects, COUNT(objects));
    drop(alias[0]);
    drop(cache);
    drop(alias[1]);
    require(process_figures().caches == before.caches);
}

/* -- visiting ---------------------------------------------------------------------------------------------------- */

struct visits {
    char names[64][64]; /* of the named caches, which come after the size classes */
    size_t classes, named;
    size_t end_at; /* ends the walk at this named cache, where not 0 */
};

static int visit(slab_cache *cache, void *context)
{
    struct visits *visits = context;
    slab_cache_stats stats = figures(cache);
    if (strncmp(stats.name, "size-", 5) == 0) {
        require(visits->named == 0);
        require(strtoul(stats.name + 5, NULL, 10) == stats.object_size);
        visits->classes++;
        return 0;
    }
    require(visits->named < COUNT(visits->names));
    memcpy(visits->names[visits->named++], stats.name, sizeof stats.name);
    return visits->named == visits->end_at ? 4711 : 0;
}

static void foreach_in_the_order_of_creation(const char *argument)
{
    (void)argument;
    static struct visits visits, none;
    slab_cache *caches[20];
    char name[64];
    for (unsigned i = 0; i < COUNT(caches); i++) {
        snprintf(name, sizeof name, "cache %u", i);
        caches[i] = make_own(name, 40 + 8 * (i * 7 % 20));
    }
    require(slab_cache_foreach(visit, &visits) == 0);
    require(visits.classes > 10 && visits.named == COUNT(caches));
    for (unsigned i = 0; i < COUNT(caches); i++) {
        snprintf(name, sizeof name, "cache %u", i);
        require(strcmp(visits.names[i], name) == 0);
    }
    visits = none;
    visits.end_at = 5;
    require(slab_cache_foreach(visit, &visits) == 4711 && visits.named == 5);
    drop(caches[0]);
    drop(caches[10]);
    slab_cache *last = make_own("last", 40);
    visits = none;
    require(slab_cache_foreach(visit, &visits) == 0 && visits.named == COUNT(caches) - 1);
    require(strcmp(visits.names[0], "cache 1") == 0 && strcmp(visits.names[visits.named - 1], "last") == 0);
    errno = 0;
    require(slab_cache_foreach(NULL, NULL) == -1 && errno == EINVAL);
    drop(last);
    for (unsigned i = 1; i < COUNT(caches); i++)
        if (i != 10)
            drop(caches[i]);
}

/* Both names of a merged cache are visited. */
static void foreach_visits_aliases(const char *argument)
{
    (void)argument;
    static struct visits visits;
    slab_cache *one = make_cache("one", 56, NULL), *two = make_cache("two", 56, NULL);
    require(slab_cache_foreach(visit, &visits) == 0 && visits.named == 2);
    drop(one);
    drop(two);
}

static size_t visited, created;

/* Destroys the cache that it is shown, and makes another one now and then. */
static int visit_and_replace(slab_cache *cache, void *context)
{
    (void)context;
    slab_cache_stats stats = figures(cache);
    if (strncmp(stats.name, "visited", 7) != 0)
        return 0;
    visited++;
    drop(cache);
    if (visited % 3 == 0) {
        cache = make_own("created", 200);
        use_cache(cache, 100);
        created++;
    }
    return 0;
}

static int visit_and_drop(slab_cache *cache, void *context)
{
    (void)context;
    if (strcmp(figures(cache).name, "created") == 0) {
        drop(cache);
        created--;
    }
    return 0;
}

static void visitors_create_and_destroy(const char *argument)
{
    (void)argument;
    enum { CACHES = 300 };
    uint64_t caches = process_figures().caches;
    for (unsigned i = 0; i < CACHES; i++)
        make_own("visited", 40 + i % 100);
    require(slab_cache_foreach(visit_and_replace, NULL) == 0);
    require(visited == CACHES && created == CACHES / 3);
    require(process_figures().caches == caches + created);
    require(slab_cache_foreach(visit_and_drop, NULL) == 0 && created == 0);
    require(process_figures().caches == caches);
}

static slab_cache *last_of_all;

static int visit_and_drop_last(slab_cache *cache, void *context)
{
    require(cache != last_of_all);
    slab_cache_stats stats = figures(cache);
    if (strcmp(stats.name, "first") == 0) {
        drop(*(slab_cache **)context);
        visited++;
    }
    return 0;
}

/* What is destroyed in the meantime is left out. */
static void foreach_leaves_out_what_goes(const char *argument)
{
    (void)argument;
    slab_cache *first = make_own("first", 40), *middle = make_own("middle", 40);
    last_of_all = make_own("last", 40);
    require(slab_cache_foreach(visit_and_drop_last, &last_of_all) == 0 && visited == 1);
    drop(first);
    drop(middle);
}

static bool stop_creating;

static void *create_and_destroy(void *unused)
{
    while (!__atomic_load_n(&stop_creating, __ATOMIC_RELAXED)) { /* partner: the store in tables_beside_creators */
        slab_cache *cache = make_own("come and go", 72);
        use_cache(cache, 20);
        drop(cache);
    }
    return unused;
}

static int count_visit(slab_cache *cache, void *context)
{
    (void)cache;
    ++*(size_t *)context;
    return 0;
}

static void tables_beside_creators(const char *argument)
{
    (void)argument;
    pthread_t threads[3];
    FILE *nowhere = fopen("/dev/null", "w");
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, create_and_destroy, NULL) == 0);
    for (unsigned i = 0; i < scaled(500); i++) {
        size_t count = 0;
        require(slab_cache_foreach(count_visit, &count) == 0 && count > 10);
        require(slab_info(nowhere) == 0);
    }
    __atomic_store_n(&stop_creating, true, __ATOMIC_RELAXED); /* partner: the load in create_and_destroy */
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    fclose(nowhere);
}

/* -- /proc/slabinfo ---------------------------------------------------------------------------------------------- */

#define VERSION_LINE "slabinfo - version: 2.1\n"
#define COLUMNS_LINE                                                                                                 \
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"                               \
    " : tunables <limit> <batchcount> <sharedfactor>"                                                                \
    " : slabdata <active_slabs> <num_slabs> <sharedavail>\n"

struct row {
    char name[64], alias[64];
    unsigned active, objects, size, per_slab, pages, limit, first, shared, active_slabs, slabs, available;
};

struct table {
    struct row rows[256];
    size_t count;
};

static void read_row(const char *line, struct row *row)
{
    int end = 0;
    memset(row, 0, sizeof *row);
    int fields = sscanf(line, "%63s %u %u %u %u %u : tunables %u %u %u : slabdata %u %u %u%n", row->name,
                        &row->active, &row->objects, &row->size, &row->per_slab, &row->pages, &row->limit,
                        &row->first, &row->shared, &row->active_slabs, &row->slabs, &row->available, &end);
    if (fields != 12)
        fprintf(stderr, "not a line of slabinfo: %s", line);
    require(fields == 12);
    if (line[end + strspn(line + end, " \n")] != '\0')
        require(sscanf(line + end, " : alias %63s", row->alias) == 1);
}

static struct table *read_table(void)
{
    static struct table table;
    char line[400];
    FILE *file = tmpfile();
    require(slab_info(file) == 0);
    rewind(file);
    require(fgets(line, sizeof line, file) != NULL && strcmp(line, VERSION_LINE) == 0);
    require(fgets(line, sizeof line, file) != NULL && strcmp(line, COLUMNS_LINE) == 0);
    for (table.count = 0; fgets(line, sizeof line, file) != NULL; table.count++) {
        if (line[0] == '#') { /* of a node */
            table.count--;
            continue;
        }
        require(table.count < COUNT(table.rows) && line[strlen(line) - 1] == '\n');
        read_row(line, &table.rows[table.count]);
    }
    fclose(file);
    return &table;
}

static struct row *row_of(struct table *table, const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->rows[i].name, name) == 0)
            return &table->rows[i];
    fprintf(stderr, "no row of %s\n", name);
    require(!"a row");
    return NULL;
}

/* The running kernel's own head and rows, where root may read them: what is asked for above is what it prints. */
static void test_the_kernel_prints_the_same(void **state)
{
    (void)state;
    char line[400];
    struct row row;
    FILE *file = fopen("/proc/slabinfo", "r");
    if (file == NULL) {
        print_message("skipped: /proc/slabinfo is not for this user, or not here\n");
        skip();
    }
    if (fgets(line, sizeof line, file) == NULL || strcmp(line, VERSION_LINE) != 0) {
        fclose(file);
        print_message("skipped: this kernel's /proc/slabinfo is of another version, or has statistics\n");
        skip();
    }
    assert_true(fgets(line, sizeof line, file) != NULL && strcmp(line, COLUMNS_LINE) == 0);
    while (fgets(line, sizeof line, file) != NULL)
        read_row(line, &row);
    fclose(file);
}

static void rows_say_what_stats_say(const char *argument)
{
    (void)argument;
    void *objects[1000];
    slab_cache *cache = make_own("a cache", 104), *empty = make_own("empty", 40);
    require(slab_cache_tune(cache, 20, 7) == 0);
    take_all(cache, objects, COUNT(objects));
    give_all(cache, objects + 500, COUNT(objects) - 500);
    slab_cache_stats stats = figures(cache);
    struct table *table = read_table();
    struct row *row = row_of(table, "a_cache");
    require(row->active == 500 && stats.active_objects == 500);
    require(row->objects == stats.total_objects && row->size == 104 && row->per_slab == stats.objects_per_slab);
    require(row->pages * (size_t)sysconf(_SC_PAGESIZE) == stats.bytes_per_slab);
    require(row->limit == 20 && row->shared == 7 && row->first >= 1 && row->first <= 20);
    require(row->slabs == stats.slabs && row->active_slabs >= 1 && row->active_slabs <= row->slabs);
    require(row->available == stats.depot_rounds && row->alias[0] == '\0');
    row = row_of(table, "empty");
    require(row->active == 0 && row->objects == 0 && row->slabs == 0 && row->active_slabs == 0 && row->size == 40);
    require(row == &table->rows[table->count - 1]);
    require(strncmp(table->rows[0].name, "size-", 5) == 0);
    row = row_of(table, "size-64");
    require(row->size == 64 && row->per_slab > 0 && row->active <= row->objects);
    give_all(cache, objects, 500);
    drop(cache);
    drop(empty);
}

/* Each name has the figures of all; all but the first say whose they are, so that a sum can leave them out. */
static void rows_of_merged_caches(const char *argument)
{
    (void)argument;
    void *objects[100];
    slab_cache *one = make_cache("the first", 56, NULL), *two = make_cache("the\tsecond\nname", 56, NULL);
    take_all(one, objects, 50);
    take_all(two, objects + 50, 50);
    struct table *table = read_table();
    struct row *first = row_of(table, "the_first"), *second = row_of(table, "the_second_name");
    require(second == first + 1 && first->active == 100 && second->active == 100);
    require(second->objects == first->objects && second->slabs == first->slabs);
    require(strcmp(second->alias, "the_first") == 0 && first->alias[0] == '\0');
    give_all(one, objects, 100);
    drop(one);
    drop(two);
}

static void names_are_one_word(const char *argument)
{
    (void)argument;
    char name[100];
    memset(name, 'n', sizeof name);
    name[99] = '\0';
    slab_cache *longest = make_own(name, 40), *spaces = make_own(" \t\n\v\f\r", 40);
    struct table *table = read_table();
    name[63] = '\0';
    require(row_of(table, name)->size == 40 && row_of(table, "______")->size == 40);
    drop(longest);
    drop(spaces);
}

static ssize_t write_and_allocate(void *cookie, const char *data, size_t size)
{
    (void)data;
    slab_cache *cache = make_own("of the stream", 72);
    use_cache(cache, 100);
    drop(cache);
    *(size_t *)cookie += size;
    return (ssize_t)size;
}

static ssize_t write_nothing(void *cookie, const char *data, size_t size)
{
    (void)cookie;
    (void)data;
    (void)size;
    errno = ENOSPC;
    return -1;
}

static void info_and_streams(const char *argument)
{
    (void)argument;
    errno = 0;
    require(slab_info(NULL) == -1 && errno == EINVAL);
    size_t written = 0;
    FILE *stream = fopencookie(&written, "w", (cookie_io_functions_t){.write = write_and_allocate});
    setvbuf(stream, NULL, _IONBF, 0);
    require(slab_info(stream) == 0 && written > 1000);
    fclose(stream);
    stream = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_nothing});
    setvbuf(stream, NULL, _IONBF, 0);
    errno = 0;
    require(slab_info(stream) == -1 && errno == ENOSPC);
    fclose(stream);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"get_stats", get_stats},
        {"process_counts_caches", process_counts_caches},
        {"foreach_in_the_order_of_creation", foreach_in_the_order_of_creation},
        {"foreach_visits_aliases", foreach_visits_aliases},
        {"visitors_create_and_destroy", visitors_create_and_destroy},
        {"foreach_leaves_out_what_goes", foreach_leaves_out_what_goes},
        {"tables_beside_creators", tables_beside_creators},
        {"rows_say_what_stats_say", rows_say_what_stats_say},
        {"rows_of_merged_caches", rows_of_merged_caches},
        {"names_are_one_word", names_are_one_word},
        {"info_and_streams", info_and_streams},
    };
    const struct CMUnitTest more[] = {cmocka_unit_test(test_the_kernel_prints_the_same)};
    int failed = run_scenarios("cache table", scenarios, COUNT(scenarios), argc, argv);
    return argc > 1 ? failed : failed + cmocka_run_group_tests(more, NULL, NULL);
}
