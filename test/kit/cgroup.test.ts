import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { CgroupTree, ownGroups } from '../../src/core/kit/cgroup.ts'

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

test('in every hierarchy here: what a process starts stays in its group, and is killed with it', {
  skip,
}, async (t) => {
  for (const own of ownGroups()) {
    const tree = CgroupTree.open(`hedgerow-test-${process.pid}`, [own])
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
    while (group.pids().length < 3) await new Promise((resolve) => setTimeout(resolve, 10))
    t.notOk(group.remove(), `${own}: not while something runs`)
    t.same(tree.all(), [group])
    group.kill()
    await once(child, 'exit')
    while (group.pids().length > 0) await new Promise((resolve) => setTimeout(resolve, 10))
    while (!group.remove()) await new Promise((resolve) => setTimeout(resolve, 10)) // the kernel still ends the last one
    tree.remove()
    t.notOk(existsSync(tree.path), 'the folder of the groups is gone')
  }
})

test('where no group can be made the reason is said; a folder is not a group', { skip }, (t) => {
  const dir = mkdtempSync('/tmp/hedgerow-cgroup-')
  t.teardown(() => rmSync(dir, { recursive: true }))
  t.match(CgroupTree.open('x', ['/proc/self']), { reason: /./ })
  t.match(CgroupTree.open('x', [dir]), { reason: /./ })
  t.notOk(existsSync(join(dir, 'x')), 'nothing is left of the try')
  t.match(CgroupTree.open('x', []), { reason: 'no cgroups are mounted' })
  t.end()
})
