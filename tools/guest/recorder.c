// The writer inside the test guest, and the same program as a plain process on the host.
//
// It keeps appending numbered records to its disks. A record is durable on its disk before the next one is begun and
// before it is acknowledged on standard output, so a copy of the disks that was taken at one point in time holds a prefix
// of the history: whoever lost or reordered a completed write is found out by `playground/src/records.rs`, which
// describes the format on disk and reads it independently of this file.
//
//     recorder --vm NAME --site SITE [--rate N] [--dirty-kib N] [--dirty-area-mib N] [--ring-kib N] DISK...
//
// DISK is a path, or NAME=PATH to choose the name that the acknowledgements show. --rate is in records a second (default
// 20, 0 is as fast as the disks allow). --dirty-kib scribbles that many KiB a second over the area behind the records.
// --dirty-area-mib and --ring-kib bound both areas on each disk; they count when blank disks are formatted.
//
// Lines on standard output, each written whole:
//     BOOT site=SITE last=N boot=HEX vm=NAME disks=K      before anything is written
//     VERIFY ok last=N | VERIFY FAIL last=N REASON        every record that must be there was read again
//     ACK N disk=NAME site=SITE t=UNIX_MILLISECONDS       record N is durable
//     STOPPED last=N                                      after SIGTERM or SIGINT: nothing more will be written
// Exit status: 0 stopped, 1 an input or output error, 2 wrong usage, 3 the disks did not verify.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the format on disk is little-endian and this program writes its structures as they are"
#endif

enum { SECTOR = 4096, CHUNK = 4, MAX_DISKS = 32, RING_START = 16, RING_MAX = 8192, RING_MIN = 4, BATCH = 256 };
enum { KIND_BEAT = 0, KIND_START = 1, KIND_STOP = 2 };

struct superblock {
	char magic[8]; // HWDISK01
	uint32_t disk, disks;
	uint64_t set, seed;
	uint64_t ring_start, ring_sectors;
	uint64_t scribble_start, scribble_sectors;
	char vm[64];
	uint8_t unused[SECTOR - 8 - 8 - 6 * 8 - 64 - 8];
	uint64_t checksum;
};

struct record {
	char magic[8]; // HWREC001
	uint64_t number, previous, boot, set, unix_nanoseconds, scribbles;
	uint32_t disk, kind;
	char site[32];
	char vm[64];
	uint64_t filler[(SECTOR - 8 - 6 * 8 - 8 - 32 - 64 - 8) / 8];
	uint64_t checksum;
};

struct scribble {
	char magic[8]; // HWSCRIB1
	uint64_t index, boot, set, after_record, sector;
	uint32_t disk, unused;
	uint64_t filler[(SECTOR - 8 - 5 * 8 - 8 - 8) / 8];
	uint64_t checksum;
};

_Static_assert(sizeof(struct superblock) == SECTOR, "superblock");
_Static_assert(sizeof(struct record) == SECTOR, "record");
_Static_assert(sizeof(struct scribble) == SECTOR, "scribble");

struct disk {
	const char *name, *path;
	int durable; // O_DSYNC: a write has reached the disk when it returns
	int lazy;    // scribbles; synced before the last record of a boot
	uint64_t sectors;
};

static struct disk disks[MAX_DISKS];
static unsigned disk_count;
static struct superblock geometry; // of disk 0; the others only differ in `disk`
static const char *vm_name, *site_name;
static uint64_t boot_id;
static uint64_t last_number, last_checksum, scribbles_done;
static uint8_t *buffer;
static volatile sig_atomic_t stop_asked;

static void on_stop(int signal_number) {
	(void)signal_number;
	stop_asked = 1;
}

static void say(const char *format, ...) {
	char line[512];
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(line, sizeof line - 1, format, arguments);
	va_end(arguments);
	if (length < 0) return;
	if (length > (int)sizeof line - 2) length = sizeof line - 2;
	line[length++] = '\n';
	// An acknowledgement that cannot be said is no reason to stop writing.
	for (int done = 0; done < length;) {
		ssize_t count = write(STDOUT_FILENO, line + done, (size_t)(length - done));
		if (count > 0) done += (int)count;
		else if (errno != EINTR) return;
	}
}

static void die(const char *what, const struct disk *disk) {
	say("ERROR %s disk=%s: %s", what, disk ? disk->name : "-", strerror(errno));
	exit(1);
}

static uint64_t mix(uint64_t x) { // splitmix64
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

// Every step can be undone, so a change of any one word always changes the result.
static uint64_t checksum(const void *sector) {
	const uint64_t *words = sector;
	uint64_t hash = 0xcbf29ce484222325u;
	for (unsigned i = 0; i < SECTOR / 8 - 1; i++) {
		hash = (hash ^ words[i]) * 0x100000001b3u;
		hash ^= hash >> 32;
	}
	return hash;
}

static int blank(const void *sector) {
	const uint64_t *words = sector;
	for (unsigned i = 0; i < SECTOR / 8; i++)
		if (words[i]) return 0;
	return 1;
}

static int valid(const void *sector, const char *magic) {
	uint64_t stored;
	memcpy(&stored, (const uint8_t *)sector + SECTOR - 8, 8);
	return memcmp(sector, magic, 8) == 0 && stored == checksum(sector);
}

static void fill(uint64_t *words, size_t count, uint64_t seed) {
	for (size_t i = 0; i < count; i++) words[i] = mix(seed + i);
}

static uint64_t random64(void) {
	uint64_t value = 0;
	// The pool of a guest that has just started may not be ready; this is an identity, not a secret.
	if (getrandom(&value, sizeof value, GRND_NONBLOCK) != (ssize_t)sizeof value) {
		struct timespec now;
		clock_gettime(CLOCK_REALTIME, &now);
		value = mix((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + (uint64_t)getpid());
	}
	return value ? value : 1;
}

static uint64_t nanoseconds(clockid_t clock) {
	struct timespec now;
	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void read_sectors(const struct disk *disk, uint64_t sector, void *into, size_t count) {
	size_t done = 0, length = count * SECTOR;
	while (done < length) {
		ssize_t got = pread(disk->lazy, (uint8_t *)into + done, length - done, (off_t)(sector * SECTOR + done));
		if (got < 0 && errno == EINTR) continue;
		if (got == 0) errno = ENODATA;
		if (got <= 0) die("read", disk);
		done += (size_t)got;
	}
}

static void write_sectors(const struct disk *disk, int descriptor, uint64_t sector, const void *from, size_t count) {
	size_t length = count * SECTOR;
	ssize_t put;
	do put = pwrite(descriptor, from, length, (off_t)(sector * SECTOR));
	while (put < 0 && errno == EINTR);
	if (put >= 0 && put != (ssize_t)length) errno = EIO;
	if (put != (ssize_t)length) die("write", disk);
}

static int open_disk(const struct disk *disk, int flags) {
	int descriptor = open(disk->path, O_RDWR | O_CLOEXEC | O_DIRECT | flags);
	// Some file systems of a host know no O_DIRECT; durability does not depend on it.
	if (descriptor < 0 && errno == EINVAL) descriptor = open(disk->path, O_RDWR | O_CLOEXEC | flags);
	if (descriptor < 0) die("open", disk);
	return descriptor;
}

static void open_disks(void) {
	for (unsigned i = 0; i < disk_count; i++) {
		struct disk *disk = &disks[i];
		disk->durable = open_disk(disk, O_DSYNC);
		disk->lazy = open_disk(disk, 0);
		off_t size = lseek(disk->lazy, 0, SEEK_END);
		if (size < 0) die("size", disk);
		disk->sectors = (uint64_t)size / SECTOR;
	}
}

static void sync_disks(void) {
	for (unsigned i = 0; i < disk_count; i++)
		if (fsync(disks[i].lazy) != 0) die("sync", &disks[i]);
}

static void verify_failed(uint64_t last, const char *format, ...) {
	char reason[256];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(reason, sizeof reason, format, arguments);
	va_end(arguments);
	say("VERIFY FAIL last=%" PRIu64 " %s", last, reason);
	exit(3);
}

// Disk 0 comes last: as long as its first sector is blank no record was ever written.
static void format_disks(uint64_t ring_kib, uint64_t area_mib) {
	uint64_t smallest = UINT64_MAX;
	for (unsigned i = 0; i < disk_count; i++)
		if (disks[i].sectors < smallest) smallest = disks[i].sectors;
	uint64_t ring = smallest > RING_START ? (smallest - RING_START) / 4 : 0;
	uint64_t ring_limit = ring_kib ? ring_kib * 1024 / SECTOR : RING_MAX;
	if (ring > ring_limit) ring = ring_limit;
	ring -= ring % CHUNK;
	if (ring < RING_MIN) {
		say("ERROR disks are too small: %" PRIu64 " sectors", smallest);
		exit(1);
	}
	uint64_t area = smallest - RING_START - ring;
	uint64_t area_limit = area_mib ? area_mib * 1024 * 1024 / SECTOR : area;
	if (area > area_limit) area = area_limit;
	area -= area % CHUNK;

	memset(&geometry, 0, sizeof geometry);
	memcpy(geometry.magic, "HWDISK01", 8);
	geometry.disks = disk_count;
	geometry.set = random64();
	geometry.seed = random64();
	geometry.ring_start = RING_START;
	geometry.ring_sectors = ring;
	geometry.scribble_start = RING_START + ring;
	geometry.scribble_sectors = area;
	strncpy(geometry.vm, vm_name, sizeof geometry.vm - 1);
	for (unsigned i = disk_count; i-- > 0;) {
		geometry.disk = i;
		geometry.checksum = checksum(&geometry);
		memcpy(buffer, &geometry, SECTOR);
		write_sectors(&disks[i], disks[i].durable, 0, buffer, 1);
	}
}

static int same_set(const struct superblock *a, const struct superblock *b) {
	return a->disks == b->disks && a->set == b->set && a->seed == b->seed && a->ring_start == b->ring_start &&
	       a->ring_sectors == b->ring_sectors && a->scribble_start == b->scribble_start &&
	       a->scribble_sectors == b->scribble_sectors && memcmp(a->vm, b->vm, sizeof a->vm) == 0;
}

// Returns what is wrong with the set of disks, or null.
static const char *load_disks(uint64_t ring_kib, uint64_t area_mib) {
	static char reason[160];
	unsigned fresh = 0;
	for (unsigned i = 0; i < disk_count; i++) {
		read_sectors(&disks[i], 0, buffer, 1);
		if (!blank(buffer) && !valid(buffer, "HWDISK01")) {
			snprintf(reason, sizeof reason, "foreign-superblock disk=%s", disks[i].name);
			return reason;
		}
		if (i == 0 && blank(buffer)) fresh = 1;
		if (!fresh && blank(buffer)) {
			snprintf(reason, sizeof reason, "no-superblock disk=%s", disks[i].name);
			return reason;
		}
		if (i == 0) memcpy(&geometry, buffer, SECTOR);
		const struct superblock *own = (const void *)buffer;
		if (!fresh && (own->disk != i || own->disks != disk_count || !same_set(own, &geometry))) {
			snprintf(reason, sizeof reason, "wrong-disk disk=%s place=%u says=%u/%u", disks[i].name, i, own->disk,
			         own->disks);
			return reason;
		}
		if (!fresh && own->scribble_start + own->scribble_sectors > disks[i].sectors) {
			snprintf(reason, sizeof reason, "shrunk disk=%s", disks[i].name);
			return reason;
		}
	}
	if (fresh) format_disks(ring_kib, area_mib);
	if (strncmp(geometry.vm, vm_name, sizeof geometry.vm) != 0) {
		snprintf(reason, sizeof reason, "wrong-vm says=%.64s", geometry.vm);
		return reason;
	}
	return NULL;
}

static uint64_t capacity(void) { return geometry.ring_sectors * disk_count; }

static uint64_t slot_sector(uint64_t number) {
	return geometry.ring_start + number / disk_count % geometry.ring_sectors;
}

// What each slot of the ring holds.
struct slot {
	uint64_t number; // 0: no valid record of this slot
	uint64_t previous, checksum, scribbles;
	int blank;
};

static struct slot *read_ring(void) {
	struct slot *slots = calloc(capacity(), sizeof *slots);
	if (!slots) die("memory", NULL);
	for (unsigned i = 0; i < disk_count; i++) {
		for (uint64_t first = 0; first < geometry.ring_sectors; first += BATCH) {
			uint64_t count = geometry.ring_sectors - first < BATCH ? geometry.ring_sectors - first : BATCH;
			read_sectors(&disks[i], geometry.ring_start + first, buffer, count);
			for (uint64_t at = 0; at < count; at++) {
				const struct record *record = (const void *)(buffer + at * SECTOR);
				uint64_t index = (first + at) * disk_count + i;
				slots[index].blank = blank(record);
				if (slots[index].blank || !valid(record, "HWREC001") || record->set != geometry.set ||
				    record->disk != i || record->number % capacity() != index)
					continue;
				slots[index] = (struct slot){record->number, record->previous, record->checksum, record->scribbles, 0};
			}
		}
	}
	return slots;
}

// Finds the last record. Every record up to it must be there, as far back as the ring reaches; only the slot of the next
// record may be in any state, since that write may have been under way.
static void verify(const char *set_problem) {
	if (set_problem) {
		say("BOOT site=%s last=0 boot=%016" PRIx64 " vm=%s disks=%u", site_name, boot_id, vm_name, disk_count);
		verify_failed(0, "%s", set_problem);
	}
	struct slot *slots = read_ring();
	uint64_t last = 0;
	for (uint64_t i = 0; i < capacity(); i++)
		if (slots[i].number > last) last = slots[i].number;
	say("BOOT site=%s last=%" PRIu64 " boot=%016" PRIx64 " vm=%s disks=%u", site_name, last, boot_id, vm_name, disk_count);
	uint64_t oldest = last + 2 > capacity() ? last + 2 - capacity() : 1;
	if (oldest < 1) oldest = 1;
	for (uint64_t number = oldest; number <= last; number++) {
		const struct slot *slot = &slots[number % capacity()];
		if (slot->number != number) verify_failed(last, "missing=%" PRIu64, number);
		if (number == 1 && slot->previous != 0) verify_failed(last, "chain=1");
		if (number > oldest && slot->previous != slots[(number - 1) % capacity()].checksum)
			verify_failed(last, "chain=%" PRIu64, number);
	}
	for (uint64_t number = last + 2; number < capacity(); number++)
		if (!slots[number].blank) verify_failed(last, "garbage=%" PRIu64, number);
	if (last + 1 < capacity() && !slots[0].blank) verify_failed(last, "garbage=0");
	if (last > 0) {
		last_number = last;
		last_checksum = slots[last % capacity()].checksum;
		scribbles_done = slots[last % capacity()].scribbles;
	}
	free(slots);
	say("VERIFY ok last=%" PRIu64, last);
}

static void write_record(uint32_t kind) {
	struct record *record = (void *)buffer;
	uint64_t number = last_number + 1;
	const struct disk *disk = &disks[number % disk_count];
	memset(record, 0, SECTOR);
	memcpy(record->magic, "HWREC001", 8);
	record->number = number;
	record->previous = last_checksum;
	record->boot = boot_id;
	record->set = geometry.set;
	record->unix_nanoseconds = nanoseconds(CLOCK_REALTIME);
	record->scribbles = scribbles_done;
	record->disk = (uint32_t)(number % disk_count);
	record->kind = kind;
	strncpy(record->site, site_name, sizeof record->site - 1);
	strncpy(record->vm, vm_name, sizeof record->vm - 1);
	fill(record->filler, sizeof record->filler / 8, geometry.seed ^ boot_id ^ number);
	record->checksum = checksum(record);
	uint64_t sum = record->checksum, when = record->unix_nanoseconds;
	write_sectors(disk, disk->durable, slot_sector(number), record, 1);
	last_number = number;
	last_checksum = sum;
	say("ACK %" PRIu64 " disk=%s site=%s t=%" PRIu64, number, disk->name, site_name, when / 1000000);
}

// Where scribble i goes follows from the seed alone, so a checker can tell which ones must be there.
static void write_scribble(void) {
	uint64_t index = scribbles_done + 1;
	uint64_t chunks = geometry.scribble_sectors / CHUNK;
	uint64_t chunk = mix(geometry.seed + index) % (chunks * disk_count);
	uint32_t place = (uint32_t)(chunk % disk_count);
	uint64_t sector = geometry.scribble_start + chunk / disk_count * CHUNK;
	for (unsigned i = 0; i < CHUNK; i++) {
		struct scribble *scribble = (void *)(buffer + i * SECTOR);
		memset(scribble, 0, SECTOR);
		memcpy(scribble->magic, "HWSCRIB1", 8);
		scribble->index = index;
		scribble->boot = boot_id;
		scribble->set = geometry.set;
		scribble->after_record = last_number;
		scribble->sector = sector + i;
		scribble->disk = place;
		fill(scribble->filler, sizeof scribble->filler / 8, geometry.seed ^ boot_id ^ mix(index) ^ i);
		scribble->checksum = checksum(scribble);
	}
	write_sectors(&disks[place], disks[place].lazy, sector, buffer, CHUNK);
	scribbles_done = index;
}

static void run(uint64_t rate, uint64_t dirty_kib) {
	const uint64_t second = 1000000000u;
	uint64_t beat = rate ? second / rate : 0;
	uint64_t pause = dirty_kib && geometry.scribble_sectors ? second * CHUNK * SECTOR / 1024 / dirty_kib : 0;
	write_record(KIND_START);
	uint64_t now = nanoseconds(CLOCK_MONOTONIC);
	uint64_t record_due = now + beat, scribble_due = now + pause;
	while (!stop_asked) {
		now = nanoseconds(CLOCK_MONOTONIC);
		// Whoever was paused does not catch up: the pace is a pace, not a total.
		if (record_due + second < now) record_due = now;
		if (scribble_due + second < now) scribble_due = now;
		if (record_due <= now) {
			write_record(KIND_BEAT);
			record_due += beat;
		}
		for (unsigned i = 0; pause && i < 64 && scribble_due <= now && !stop_asked; i++) {
			write_scribble();
			scribble_due += pause;
		}
		uint64_t due = pause && scribble_due < record_due ? scribble_due : record_due;
		now = nanoseconds(CLOCK_MONOTONIC);
		if (due > now && !stop_asked) {
			struct timespec wait = {(time_t)((due - now) / second), (long)((due - now) % second)};
			nanosleep(&wait, NULL); // a signal ends it early
		}
	}
	sync_disks();
	write_record(KIND_STOP);
	sync_disks();
	say("STOPPED last=%" PRIu64, last_number);
}

static void usage(const char *why) {
	fprintf(stderr,
	        "recorder: %s\n"
	        "usage: recorder --vm NAME --site SITE [--rate N] [--dirty-kib N] [--dirty-area-mib N] [--ring-kib N] "
	        "[NAME=]DISK...\n",
	        why);
	exit(2);
}

static uint64_t parse_number(const char *text) {
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-') usage("not a number");
	return value;
}

int main(int count, char **arguments) {
	uint64_t rate = 20, dirty_kib = 0, area_mib = 0, ring_kib = 0;
	for (int i = 1; i < count; i++) {
		char *argument = arguments[i];
		if (strncmp(argument, "--", 2) == 0) {
			const char *value = i + 1 < count ? arguments[++i] : NULL;
			if (!value) usage("an option lacks its value");
			if (!strcmp(argument, "--vm")) vm_name = value;
			else if (!strcmp(argument, "--site")) site_name = value;
			else if (!strcmp(argument, "--rate")) rate = parse_number(value);
			else if (!strcmp(argument, "--dirty-kib")) dirty_kib = parse_number(value);
			else if (!strcmp(argument, "--dirty-area-mib")) area_mib = parse_number(value);
			else if (!strcmp(argument, "--ring-kib")) ring_kib = parse_number(value);
			else usage("unknown option");
			continue;
		}
		if (disk_count == MAX_DISKS) usage("too many disks");
		char *equals = strchr(argument, '='), *slash = strchr(argument, '/');
		struct disk *disk = &disks[disk_count++];
		if (equals && (!slash || equals < slash)) {
			*equals = 0;
			disk->name = argument;
			disk->path = equals + 1;
		} else {
			disk->name = slash ? strrchr(argument, '/') + 1 : argument;
			disk->path = argument;
		}
	}
	if (!vm_name || !*vm_name || strlen(vm_name) > 63) usage("--vm takes 1 to 63 characters");
	if (!site_name || !*site_name || strlen(site_name) > 31) usage("--site takes 1 to 31 characters");
	if (disk_count == 0) usage("no disk");
	if (rate > 1000000) usage("--rate is at most 1000000");

	struct sigaction action = {.sa_handler = on_stop};
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	// As a plain process it may stand still for a point in time when the agent that started it dies: a process group that is orphaned with a
	// stopped member is sent SIGHUP.
	signal(SIGHUP, SIG_IGN);
	if (posix_memalign((void **)&buffer, SECTOR, (size_t)BATCH * SECTOR) != 0) die("memory", NULL);

	boot_id = random64();
	open_disks();
	verify(load_disks(ring_kib, area_mib));
	run(rate, dirty_kib);
	return 0;
}
