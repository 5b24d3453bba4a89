/*
 * DPDK's rte_lpm and rte_lpm6 beside culvert's FIB. A process of its own, so that
 * the bench needs no foreign calls: it reads a file of routes and keys, and for each
 * line of its input does a round and answers with nanoseconds a lookup.
 *
 * The file, in the machine's byte order: u32 bytes of an address (4 or 16), u32
 * routes, u32 keys, u32 tables of 256 entries that the routes need; routes as { u8 address[16], u32 length, u32 next hop }; random
 * keys and skewed keys as address bytes (most significant first), and the right
 * answers to the random keys as u32.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>

#define BULK 64
#define UPDATES 50000

struct route {
	uint8_t address[16];
	uint32_t length, next_hop;
};

static uint32_t width, routes_len, keys_len, tbl8s;
static struct route *routes;
static uint8_t *raw_random, *raw_skewed;
static uint32_t *right;
/* IPv4 keys as numbers. */
static uint32_t *random4, *skewed4;
static struct rte_lpm *lpm;
static struct rte_lpm6 *lpm6;

static void die(const char *what)
{
	fprintf(stderr, "dpdk peer: %s\n", what);
	exit(1);
}

static void *read_all(FILE *file, size_t size)
{
	void *memory = malloc(size);
	if (!memory || fread(memory, 1, size, file) != size)
		die("the input file is too short");
	return memory;
}

static double now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static uint32_t number(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
}

static uint32_t *numbers(const uint8_t *raw)
{
	uint32_t *keys = malloc(keys_len * sizeof(*keys));
	for (uint32_t i = 0; i < keys_len; i++)
		keys[i] = number(raw + 4 * (size_t)i);
	return keys;
}

static size_t resident(void)
{
	size_t all, pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");
	if (!file || fscanf(file, "%zu %zu", &all, &pages) != 2)
		die("/proc/self/statm");
	fclose(file);
	return pages * 4096;
}

static int add(const struct route *route)
{
	if (width == 4)
		return rte_lpm_add(lpm, number(route->address), route->length, route->next_hop);
	return rte_lpm6_add(lpm6, route->address, route->length, route->next_hop);
}

static int del(const struct route *route)
{
	if (width == 4)
		return rte_lpm_delete(lpm, number(route->address), route->length);
	return rte_lpm6_delete(lpm6, route->address, route->length);
}

static uint32_t checksum;

static double bulk4(const uint32_t *keys, int by_four)
{
	uint32_t hops[BULK], sum = 0;
	double began = now(CLOCK_PROCESS_CPUTIME_ID);
	for (uint32_t i = 0; i + BULK <= keys_len; i += BULK) {
		if (by_four) {
			for (int j = 0; j < BULK; j += 4) {
				__m128i four = _mm_loadu_si128((const __m128i *)(keys + i + j));
				rte_lpm_lookupx4(lpm, four, hops + j, 0);
			}
		} else {
			rte_lpm_lookup_bulk(lpm, keys + i, hops, BULK);
		}
		__asm__ volatile("" : : "r"(hops) : "memory");
		sum += hops[0];
	}
	checksum += sum;
	return (now(CLOCK_PROCESS_CPUTIME_ID) - began) / keys_len;
}

static double chain4(void)
{
	volatile uint32_t none = 0;
	uint32_t zero = none, last = 0, count = keys_len / 4;
	double began = now(CLOCK_PROCESS_CPUTIME_ID);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t hop = 0;
		rte_lpm_lookup(lpm, random4[i] + (last & zero), &hop);
		last = hop;
	}
	checksum += last;
	return (now(CLOCK_PROCESS_CPUTIME_ID) - began) / count;
}

static double bulk6(uint8_t *keys)
{
	int32_t hops[BULK];
	double began = now(CLOCK_PROCESS_CPUTIME_ID);
	for (uint32_t i = 0; i + BULK <= keys_len; i += BULK) {
		rte_lpm6_lookup_bulk_func(lpm6, (uint8_t(*)[16])(keys + 16 * (size_t)i), hops, BULK);
		checksum += hops[0];
	}
	return (now(CLOCK_PROCESS_CPUTIME_ID) - began) / keys_len;
}

static double chain6(void)
{
	volatile uint32_t none = 0;
	uint32_t zero = none, last = 0, count = keys_len / 4;
	double began = now(CLOCK_PROCESS_CPUTIME_ID);
	for (uint32_t i = 0; i < count; i++) {
		uint8_t key[16];
		uint32_t hop = 0;
		memcpy(key, raw_random + 16 * (size_t)i, 16);
		key[15] += last & zero;
		rte_lpm6_lookup(lpm6, key, &hop);
		last = hop;
	}
	checksum += last;
	return (now(CLOCK_PROCESS_CPUTIME_ID) - began) / count;
}

static uint32_t wrong(void)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < keys_len; i++) {
		uint32_t hop = 0;
		int miss = width == 4 ? rte_lpm_lookup(lpm, random4[i], &hop)
				      : rte_lpm6_lookup(lpm6, raw_random + 16 * (size_t)i, &hop);
		count += (miss ? 0 : hop) != right[i];
	}
	return count;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Mean nanoseconds an update by the processor's time, and p99.9 by the wall's clock. */
static void updates(void)
{
	double *single = malloc(2 * UPDATES * sizeof(double));
	uint32_t count = 0, random = 7;
	double end = now(CLOCK_MONOTONIC) + 3e9, began = now(CLOCK_PROCESS_CPUTIME_ID);
	for (; count < UPDATES && now(CLOCK_MONOTONIC) < end; count++) {
		random = random * 1664525 + 1013904223;
		struct route *route = routes + (uint64_t)random * routes_len / 0x100000000ull;
		double t0 = now(CLOCK_MONOTONIC);
		if (del(route))
			die("delete failed");
		double t1 = now(CLOCK_MONOTONIC);
		if (add(route))
			die("add failed");
		double t2 = now(CLOCK_MONOTONIC);
		single[2 * count] = t1 - t0;
		single[2 * count + 1] = t2 - t1;
	}
	double mean = (now(CLOCK_PROCESS_CPUTIME_ID) - began) / (2 * count);
	qsort(single, 2 * count, sizeof(double), by_size);
	printf("%f %f %u\n", mean, single[2 * count - 1 - 2 * count / 1000], wrong());
	free(single);
}

static void read_input(const char *path)
{
	FILE *file = fopen(path, "rb");
	if (!file)
		die("cannot open the input file");
	uint32_t *head = read_all(file, 16);
	width = head[0];
	routes_len = head[1];
	keys_len = head[2];
	tbl8s = head[3];
	routes = read_all(file, routes_len * sizeof(struct route));
	raw_random = read_all(file, (size_t)keys_len * width);
	raw_skewed = read_all(file, (size_t)keys_len * width);
	right = read_all(file, keys_len * sizeof(uint32_t));
	fclose(file);
	if (width == 4) {
		random4 = numbers(raw_random);
		skewed4 = numbers(raw_skewed);
	}
}

int main(int argc, char **argv)
{
	char *eal[] = { argv[0], "--no-huge", "--no-pci", "--no-shconf", "-m", "1024",
			"--no-telemetry", "--log-level=lib.eal:error", "-l", "0" };
	if (argc != 2)
		die("usage: dpdk-peer FILE");
	if (rte_eal_init(sizeof(eal) / sizeof(*eal), eal) < 0)
		die("rte_eal_init failed");
	read_input(argv[1]);
	size_t before = resident();
	struct rte_lpm_config config = { .max_rules = routes_len + 64, .number_tbl8s = tbl8s };
	struct rte_lpm6_config config6 = { .max_rules = routes_len + 64, .number_tbl8s = tbl8s };
	if (width == 4)
		lpm = rte_lpm_create("peer", SOCKET_ID_ANY, &config);
	else
		lpm6 = rte_lpm6_create("peer", SOCKET_ID_ANY, &config6);
	if (!lpm && !lpm6)
		die("no memory for the table");
	for (uint32_t i = 0; i < routes_len; i++)
		if (add(routes + i))
			die("add failed");
	printf("%zu %u\n", resident() - before, wrong());
	fflush(stdout);
	char line[16];
	while (fgets(line, sizeof(line), stdin)) {
		if (line[0] == 'u')
			updates();
		else if (width == 4)
			printf("%f %f %f %f %f\n", bulk4(random4, 0), bulk4(skewed4, 0), chain4(),
			       bulk4(random4, 1), bulk4(skewed4, 1));
		else
			printf("%f %f %f\n", bulk6(raw_random), bulk6(raw_skewed), chain6());
		fflush(stdout);
	}
	return checksum == 42 ? 2 : 0;
}
