import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { emptyGroups, removeAbandoned } from '../../src/core/kit/abandoned-cgroups.ts'
import { CgroupTree, controlsAt, hierarchiesHere, ownGroups } from '../../src/core/kit/cgroup.ts'
import { setLimits, usageOf } from '../../src/core/kit/cgroup-controls.ts'
import { until } from '../support/until.ts'

const skip = process.getuid?.() === 0 ? false : 'optional: needs root, to make control groups'

const mount = (root: string, at: string, rest: string) => `20 19 0:30 ${root} ${at} rw,relatime shared:9 - ${rest}`

test('where the group of this process is, in each hierarchy that can serve', (t) => {
  const rows = [
    {
      what: 'version 2 alone',
      mounts: [mount('/', '/sys/fs/cgroup', 'cgroup2 cgroup2 rw,nsdelegate')],
      groups: ['0::/system.slice/hedgerow-agent.service'],
      found: ['/sys/fs/cgroup/system.slice/hedgerow-agent.service'],
    },
    {
      what: 'both versions: 2 first, then freezer; cpuset needs settings, and a name alone is systemd’s',
      mounts: [
        mount('/', '/sys/fs/cgroup/cpu,cpuacct', 'cgroup cgroup rw,cpu,cpuacct'),
        mount('/', '/sys/fs/cgroup/cpuset', 'cgroup cgroup rw,cpuset'),
        mount('/', '/sys/fs/cgroup/freezer', 'cgroup cgroup rw,freezer'),
        mount('/', '/sys/fs/cgroup/systemd', 'cgroup cgroup rw,name=systemd'),
        mount('/', '/sys/fs/cgroup/unified', 'cgroup2 cgroup2 rw'),
      ],
      groups: ['5:cpu,cpuacct:/a', '4:cpuset:/a', '3:freezer:/', '1:name=systemd:/a', '0::/a'],
      found: ['/sys/fs/cgroup/unified/a', '/sys/fs/cgroup/freezer', '/sys/fs/cgroup/cpu,cpuacct/a'],
    },
    {
      what: 'a container that sees its own part of the host’s hierarchy',
      mounts: [mount('/docker/abc', '/sys/fs/cgroup/pids', 'cgroup cgroup rw,pids')],
      groups: ['2:pids:/docker/abc'],
      found: ['/sys/fs/cgroup/pids'],
    },
    {
      what: 'a process outside the part that is mounted',
      mounts: [mount('/', '/sys/fs/cgroup', 'cgroup2 cgroup2 rw'), mount('/b', '/c', 'cgroup cgroup rw,pids')],
      groups: ['0::/../other', '2:pids:/a'],
      found: [],
    },
    { what: 'none', mounts: [mount('/', '/', 'ext4 /dev/vda rw')], groups: [''], found: [] },
  ]
  for (const { what, mounts, groups, found } of rows) {
    t.same(ownGroups(mounts.join('\n'), groups.join('\n')), found, what)
  }
  t.end()
})

test('where the groups of a container count, in both versions', (t) => {
  const mounts = ['memory', 'cpu,cpuacct', 'pids'].map((name) =>
    mount('/', `/sys/fs/cgroup/${name}`, `cgroup cgroup rw,${name}`),
  )
  const groups = ['5:memory:/docker/abc/inner', '4:cpu,cpuacct:/docker/abc', '3:pids:/elsewhere', '0::/']
  t.same(controlsAt('abc', groups.join('\n'), mounts.join('\n')), {
    memory: '/sys/fs/cgroup/memory/docker/abc',
    cpu: '/sys/fs/cgroup/cpu,cpuacct/docker/abc',
    cpuacct: '/sys/fs/cgroup/cpu,cpuacct/docker/abc',
  })
  const dir = t.testdir({ 'system.slice': { 'docker-abc.scope': { 'cgroup.controllers': 'cpu memory pids\n' } } })
  const folder = join(dir, 'system.slice/docker-abc.scope')
  const version2 = mount('/', dir, 'cgroup2 cgroup2 rw')
  t.same(controlsAt('abc', '0::/system.slice/docker-abc.scope', version2), {
    memory: folder,
    cpu: folder,
    pids: folder,
    pressure: folder,
  })
  t.same(controlsAt('abc', '0::/user.slice', version2), {}, 'a process of this machine with the same number')
  t.end()
})

test('in every hierarchy here: what a process starts stays in its group, and is killed with it', {
  skip,
}, async (t) => {
  for (const hierarchy of hierarchiesHere().filter(({ rank }) => rank >= 0)) {
    const { own } = hierarchy
    const tree = CgroupTree.open(`hedgerow-test-${process.pid}`, [hierarchy])
    if (!(tree instanceof CgroupTree)) {
      t.comment(`${own}: ${tree.reason}`)
      continue
    }
    const group = tree.make('one')
    const child = spawn('sh', ['-c', 'read go; (setsid env -i sleep 60 &); sleep 60'], {
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    t.teardown(() => group.kill())
    group.add(child.pid as number)
    child.stdin.end('\n')
    await until(() => group.pids().length >= 3)
    t.notOk(group.remove(), `${own}: not while something runs`)
    t.same(
      tree.all().map(({ path }) => path),
      [group.path],
    )
    group.kill()
    await once(child, 'exit')
    await until(() => group.pids().length === 0)
    await until(() => group.remove()) // the kernel still ends the last one
    tree.remove()
    t.notOk(existsSync(tree.path), 'the folder of the groups is gone')
  }
})

test('where no group can be made the reason is said; a folder is not a group', { skip }, (t) => {
  const dir = mkdtempSync('/tmp/hedgerow-cgroup-')
  t.teardown(() => rmSync(dir, { recursive: true }))
  const at = (own: string) => [{ names: ['freezer'], own, top: own, rank: 1 }]
  t.match(CgroupTree.open('x', at('/proc/self')), { reason: /./ })
  t.match(CgroupTree.open('x', at(dir)), { reason: /./ })
  t.notOk(existsSync(join(dir, 'x')), 'nothing is left of the try')
  t.match(CgroupTree.open('x', []), { reason: 'no cgroups are mounted' })
  t.end()
})

test('limits and figures by the files of both versions', (t) => {
  const dir = mkdtempSync('/tmp/hedgerow-cgroup-')
  t.teardown(() => rmSync(dir, { recursive: true }))
  const folder = (name: string, files: Record<string, string>) => {
    const path = mkdtempSync(join(dir, name))
    for (const [file, text] of Object.entries(files)) writeFileSync(join(path, file), text)
    return path
  }
  const stat = 'anon 4096\ninactive_file 1000\ntotal_inactive_file 3000\n'
  const two = folder('two', {
    'cgroup.controllers': 'cpu memory pids\n',
    'memory.max': '',
    'memory.swap.max': '',
    'memory.current': '5000\n',
    'memory.stat': stat,
    'memory.events': 'low 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n',
    'cpu.max': '',
    'cpu.stat': 'usage_usec 1500000\nuser_usec 1\nnr_throttled 4\nthrottled_usec 250000\n',
    'pids.max': '',
    'cpu.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n',
    'memory.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=250000\nfull avg10=0.00 total=7\n',
    'io.pressure': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 total=7\n',
  })
  const memory = folder('memory', {
    'memory.limit_in_bytes': '',
    'memory.memsw.limit_in_bytes': '',
    'memory.usage_in_bytes': '5000\n',
    'memory.stat': stat,
    'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n',
  })
  const cpu = folder('cpu', {
    'cpu.cfs_period_us': '',
    'cpu.cfs_quota_us': '',
    'cpu.stat': 'nr_periods 9\nnr_throttled 4\nthrottled_time 250000000\n',
    'cpuacct.usage': '1500000000\n',
  })
  const pids = folder('pids', { 'pids.max': '' })
  const limits = { memoryBytes: 65_536, vcpus: 0.5, pids: 50 }
  const read = (path: string, file: string) => readFileSync(join(path, file), 'utf8')

  t.same(setLimits({ memory: two, cpu: two, pids: two }, limits), [])
  t.equal(read(two, 'memory.max'), '65536')
  t.equal(read(two, 'memory.swap.max'), '0')
  t.equal(read(two, 'cpu.max'), '50000 100000')
  t.equal(read(two, 'pids.max'), '50')
  t.same(setLimits({ memory, cpu, pids }, limits), [])
  t.equal(read(memory, 'memory.limit_in_bytes'), '65536')
  t.equal(read(memory, 'memory.memsw.limit_in_bytes'), '65536')
  t.equal(read(cpu, 'cpu.cfs_quota_us'), '50000')
  t.equal(read(pids, 'pids.max'), '50')
  const usage = { cpuSeconds: 1.5, throttledSeconds: 0.25, oomKills: 2 }
  t.same(usageOf({ memory: two, cpu: two }), { ...usage, memoryBytes: 4_000 })
  const stalls = { cpu: 1.5, memory: 0.25, io: 0 }
  t.same(usageOf({ memory: two, cpu: two, pressure: two }), { ...usage, memoryBytes: 4_000, stalls })
  t.equal(usageOf({ memory, cpu, pressure: memory })?.stalls, undefined, 'a kernel that does not count it')
  t.same(usageOf({ memory, cpu, cpuacct: cpu }), { ...usage, memoryBytes: 2_000 })
  t.same(setLimits({ memory }, limits), ['cpu', 'pids'], 'what there is no controller for is told')
  t.same(setLimits({ memory: join(dir, 'gone') }, limits), ['memory', 'cpu', 'pids'], 'so is what cannot be written')
  t.same(setLimits({}, {}), [], 'what is not asked for is not missed')
  t.equal(usageOf({ memory: join(dir, 'gone'), pids }), undefined, 'a group that is gone')
  t.end()
})

test('what agents that are gone have left is removed, and nothing else', { skip }, (t) => {
  const name = (digit: string) => `hedgerow-${String(process.pid).padStart(8, '0')}aaa${digit}`
  const [gone, alive] = [CgroupTree.open(name('0')), CgroupTree.open(name('1'))]
  if (!(gone instanceof CgroupTree) || !(alive instanceof CgroupTree)) return t.end()
  const [run, busy] = [gone.make('run'), alive.make('busy')]
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  t.teardown(() => {
    child.kill('SIGKILL')
    child.once('exit', () => void (busy.remove() && alive.remove()))
  })
  busy.add(child.pid as number)
  const look = () =>
    emptyGroups('hedgerow-000000000000').filter((path) => path.includes(name('0')) || path.includes(name('1')))
  const before = look()
  const late = gone.make('late')
  removeAbandoned(before, look())
  t.notOk(existsSync(run.path), 'empty at both looks')
  t.ok(existsSync(late.path), 'a run that has just been given its group keeps it')
  t.ok(existsSync(busy.path), 'so does one with a process')
  removeAbandoned(look(), look())
  t.notOk(existsSync(gone.path))
  t.same(
    emptyGroups(name('0')).filter((path) => path.includes(name('0'))),
    [],
    'its own groups are the agent’s affair',
  )
  t.end()
})
