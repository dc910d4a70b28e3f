import assert from 'node:assert/strict'
import { block, instances, type Machines, mainPid, property, restarted, retried, running } from './steps.ts'

/** One sentence of docs/operations.md about the units, on the machines as the proofs before left them. */
export interface Proof {
  name: string
  prove(machines: Machines): Promise<void>
}

const AGENT = 'hedgerow-agent'
const WATCHDOG_SECONDS = 4
const SERVERS = ['hedgerow-root', 'hedgerow-cluster'] as const

const INSTALL: readonly Proof[] = [
  {
    name: 'root and cluster are installed as the page says, and are active when they serve',
    async prove({ server }) {
      await server.must(block('Install', 0) + block('Install', 1))
      for (const unit of SERVERS) {
        assert.equal(await property(server, unit, 'ActiveState'), 'active')
        assert.equal(await property(server, unit, 'StatusText'), 'serving')
      }
    },
  },
  {
    name: 'an agent that cannot reach its cluster yet is not active, and becomes so when it can',
    async prove({ server, node }) {
      await node.must(block('Install', 0))
      const token = await server.must('hedgerow token create')
      await server.must('systemctl stop hedgerow-cluster')
      await node.must(block('Install', 2, token).replace('enable --now', 'enable --now --no-block'))
      await node.until(`systemctl is-active ${AGENT} || true`, 'activating')
      await server.must('systemctl start hedgerow-cluster')
      await node.until(`systemctl is-active ${AGENT} || true`, 'active', 60_000)
      assert.equal(await property(node, AGENT, 'StatusText'), 'serving')
    },
  },
  {
    name: 'an app runs on the node, and nothing is wrong',
    async prove({ server, node }) {
      await server.must(block('Install', 3))
      await running(server, node)
      await server.must(block('Install', 4))
      await node.must('hedgerow check')
    },
  },
]

const RIGHTS: readonly Proof[] = [
  {
    name: 'root and cluster run as hedgerow, get no more rights, and write nowhere else',
    async prove({ server }) {
      for (const unit of SERVERS) {
        const pid = await mainPid(server, unit)
        const inside = `nsenter -t ${pid} -m setpriv --reuid hedgerow --regid hedgerow --clear-groups`
        assert.equal(await server.must(`stat -c %U /proc/${pid}`), 'hedgerow')
        assert.match(await server.must(`cat /proc/${pid}/status`), /^NoNewPrivs:\s1$/m)
        const state = `/var/lib/${unit.replace('-', '/')}`
        await server.must(`${inside} touch ${state}/proof && rm ${state}/proof`)
        for (const path of ['/usr/proof', '/etc/proof', '/home/proof', '/var/proof', '/var/lib/hedgerow/proof'])
          assert.match(
            (await server.run(`nsenter -t ${pid} -m touch ${path}`)).stderr,
            /Read-only|Permission denied/,
            path,
          )
        assert.equal(await server.must(`${inside} ls -A /tmp`), '', 'a /tmp of its own')
        assert.equal(await server.must(`stat -c '%U %a' ${state}`), 'hedgerow 700')
      }
    },
  },
  {
    name: 'an agent on the server has a state directory of its own, and none takes the files of another',
    async prove({ server }) {
      const token = await server.must('hedgerow token create')
      await server.must(block('Install', 2, token).replace('name: n1', 'name: n2'))
      for (const unit of [...SERVERS, AGENT]) {
        await server.must(`systemctl restart ${unit}`)
        assert.equal(await property(server, unit, 'StatusText'), 'serving')
      }
      const owners = await server.must('cd /var/lib/hedgerow && stat -c "%U %a %n" . agent cluster root')
      assert.deepEqual(owners.split('\n'), [
        'root 755 .',
        'root 700 agent',
        'hedgerow 700 cluster',
        'hedgerow 700 root',
      ])
      await retried(server, 'hedgerow delete node edge/n2')
      await server.must(`systemctl disable --now ${AGENT} && rm -r /var/lib/hedgerow/agent /etc/hedgerow/agent.*`)
    },
  },
  {
    name: 'every instance has a user of its own, and a control group below that of the unit',
    async prove({ node }) {
      const pids = await instances(node)
      const uids = await Promise.all(pids.map((pid) => node.must(`stat -c %u /proc/${pid}`)))
      assert.equal(new Set(uids).size, 2)
      for (const uid of uids) assert.ok(Number(uid) >= 60_578 && Number(uid) <= 61_183, uid)
      const groups = await Promise.all(pids.map((pid) => node.must(`cat /proc/${pid}/cgroup`)))
      assert.equal(new Set(groups).size, 2)
      for (const group of groups) assert.match(group, /\/system\.slice\/hedgerow-agent\.service\/hedgerow-[0-9a-f]+\//)
    },
  },
]

const DAILY: readonly Proof[] = [
  {
    name: 'the journal has the log of every unit',
    async prove({ server, node }) {
      for (const [machine, unit] of [
        [server, SERVERS[0]],
        [server, SERVERS[1]],
        [node, AGENT],
      ] as const) {
        const lines = (await machine.must(`journalctl -u ${unit} -o cat`)).split('\n')
        assert.ok(
          lines.some((line) => /^HEDGEROW +READY/.test(line)),
          unit,
        )
        assert.ok(
          lines.some((line) => line.startsWith('{') && 'msg' in JSON.parse(line)),
          unit,
        )
        const warned = await machine.must(`journalctl -u ${unit} -o cat -p warning`)
        assert.ok(lines.some((line) => line.includes('"level":"info"')) && !warned.includes('"level":"info"'), unit)
      }
    },
  },
  {
    name: 'systemctl reload reads the configuration again; one with faults is named and changes nothing',
    async prove({ node }) {
      const pid = await mainPid(node, AGENT)
      await node.must(`systemctl reload ${AGENT}`)
      await node.until(`systemctl show -P StatusText ${AGENT}`, 'serving; configuration read again')
      await node.must(`echo nonsense: 1 >> /etc/hedgerow/agent.yaml; systemctl reload ${AGENT}`)
      const said = `journalctl -u ${AGENT} -o cat -g 'it has faults' | tail -n 1`
      await node.until(said, /nonsense/)
      await node.must('sed -i /nonsense/d /etc/hedgerow/agent.yaml')
      assert.equal(await mainPid(node, AGENT), pid)
    },
  },
  {
    name: 'systemctl restart keeps the instances, and calls go on afterwards',
    async prove({ node }) {
      const before = await instances(node)
      await node.must(`systemctl restart ${AGENT}`)
      assert.deepEqual(await instances(node), before)
      await node.until(`${CALL} || true`, /^hello from/)
    },
  },
  {
    name: 'systemctl stop ends the agent with 0 and leaves the instances; start takes them back',
    async prove({ server, node }) {
      const before = await instances(node)
      await node.must(`systemctl stop ${AGENT}`)
      assert.equal(
        await node.must(`systemctl show -P ActiveState -P Result -P ExecMainStatus ${AGENT} | xargs`),
        'success 0 inactive',
      )
      assert.deepEqual(await instances(node), before)
      await node.must(`systemctl start ${AGENT}`)
      await running(server, node)
      assert.deepEqual(await instances(node), before)
    },
  },
]

const FAILURES: readonly Proof[] = [
  {
    name: 'hedgerow restart: the successor becomes the main process, no instance ends, systemd counts no restart',
    async prove({ node }) {
      // in place of the minute of the unit
      await node.must(`mkdir /etc/systemd/system/${AGENT}.service.d
printf '[Service]\nWatchdogSec=${WATCHDOG_SECONDS}\n' > /etc/systemd/system/${AGENT}.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart ${AGENT}`)
      const before = { pids: await instances(node), pid: await mainPid(node, AGENT) }
      await node.must(block('Upgrade', 1))
      assert.notEqual(await mainPid(node, AGENT), before.pid)
      assert.equal(
        await node.must(`systemctl show -P StatusText -P NRestarts -P ActiveState ${AGENT} | xargs`),
        'serving 0 active',
      )
      assert.deepEqual(await instances(node), before.pids)
      await node.until(`${CALL} || true`, /^hello from/)
    },
  },
  {
    name: 'the successor is watched: it pings, and is started again when it hangs or is killed',
    async prove({ node }) {
      const before = await mainPid(node, AGENT)
      await node.must(`sleep ${WATCHDOG_SECONDS * 1.5}`)
      assert.equal(await mainPid(node, AGENT), before)
      await restarted(node, AGENT, 'kill -STOP')
      await node.must('hedgerow restart')
      await node.until(`pgrep -fc 'hedgerow agen[t]'`, '1')
      await restarted(node, AGENT, 'kill -KILL')
    },
  },
  {
    name: 'a successor that dies or hangs beside the old process, which still carries a flow, is started again',
    async prove({ node }) {
      for (const how of ['kill -KILL', 'kill -STOP']) {
        // an agent that crashed beside an old one takes another prefix: the old one has the first until it ends
        const [, address = ''] = /(\d+\.\d+\.\d+\.\d+)/.exec(await node.must(`hedgerow resolve ${NAME}`)) ?? []
        await node.must(
          `systemd-run --quiet --collect --unit flow bash -c 'exec 3<>/dev/tcp/${address}/8080; sleep 50'`,
        )
        await node.until('hedgerow flows -o json || true', /hello\.demo/)
        const before = await mainPid(node, AGENT)
        await node.must('hedgerow restart')
        assert.equal((await node.run(`kill -0 ${before}`)).code, 0, 'the old process carries the flow')
        await restarted(node, AGENT, how)
        await node.must('systemctl stop flow')
      }
    },
  },
  {
    name: 'a program that hangs is ended by the watchdog, one that crashes comes back: agent, root and cluster',
    async prove({ server, node }) {
      await restarted(node, AGENT, 'kill -STOP')
      assert.match(await node.must(`journalctl -u ${AGENT} -o cat`), /Watchdog timeout/)
      await running(server, node)
      const before = await instances(node)
      await restarted(node, AGENT, 'kill -KILL')
      for (const unit of SERVERS) await restarted(server, unit, 'kill -KILL')
      await running(server, node)
      assert.deepEqual(await instances(node), before)
    },
  },
]

const MAINTENANCE: readonly Proof[] = [
  {
    name: 'upgrade, backup and restore go as the page says',
    async prove({ server, node }) {
      const before = await instances(node)
      await server.must(block('Upgrade', 0))
      await running(server, node)
      assert.deepEqual(await instances(node), before)
      await server.must(block('Back up and restore', 0))
      await retried(server, 'hedgerow delete app hello.demo')
      await server.must(block('Back up and restore', 1))
      await running(server, node)
    },
  },
  {
    name: 'the certificate authority is replaced as the page says, and no instance ends',
    async prove({ server, node }) {
      const before = await instances(node)
      await server.must(block('Replace the certificate authority', 0))
      await server.until('hedgerow ca status', /step +issuing[^]*behind +0/, 60_000)
      await server.must(block('Replace the certificate authority', 1))
      await server.until('hedgerow check > /dev/null && echo ok || true', 'ok')
      assert.deepEqual(await instances(node), before)
    },
  },
  {
    name: 'a new mesh is set up as the page says',
    async prove({ server, node }) {
      await server.must(block('Set up a new mesh', 0))
      const token = await retried(server, 'hedgerow token create')
      await node.must(block('Set up a new mesh', 1, token))
      await retried(server, 'hedgerow apply -f examples/hello.yaml')
      await running(server, node)
    },
  },
  {
    name: 'a relay serves at port 443 as the user hedgerow, with no other right',
    async prove({ server, node }) {
      await server.must(`install -m 0644 examples/systemd/hedgerow-relay.service /etc/systemd/system/
printf 'relay:\\n  name: r1\\n  listen: 203.0.113.10:443\\n' > /etc/hedgerow/relay.yaml
TOKEN=$(hedgerow token create --role relay)
(umask 077; printf 'HEDGEROW_TOKEN=%s\\n' "$TOKEN" > /etc/hedgerow/relay.env)
systemctl daemon-reload
systemctl enable --now hedgerow-relay`)
      const status = await server.must(`cat /proc/${await mainPid(server, 'hedgerow-relay')}/status`)
      assert.match(status, /^CapEff:\s0+400$/m, 'CAP_NET_BIND_SERVICE')
      assert.equal(await server.must(`stat -c %U /proc/${await mainPid(server, 'hedgerow-relay')}`), 'hedgerow')
      await node.until('hedgerow netcheck || true', /203\.0\.113\.10:443/)
      await restarted(server, 'hedgerow-relay', 'kill -KILL')
    },
  },
  {
    name: 'after a power failure everything comes back by itself',
    async prove({ server, node }) {
      await Promise.all([server.off(), node.off()])
      await Promise.all([server.boot(), node.boot()])
      await server.connect('203.0.113.10/24', node, '203.0.113.11/24')
      await running(server, node)
      await server.until('hedgerow check > /dev/null && echo ok || true', 'ok')
      await node.until('hedgerow check > /dev/null && echo ok || true', 'ok')
    },
  },
  {
    name: 'a node is removed as the page says, and nothing of it is left',
    async prove({ server, node }) {
      await server.must(block('Uninstall', 0))
      await node.must(block('Uninstall', 1))
      for (const left of [
        'pgrep -f "hello fro[m]"',
        'pgrep -f "hedgerow agen[t]"',
        'id hedgerow',
        `systemctl cat ${AGENT}`,
        'ls /var/lib/hedgerow',
      ])
        assert.notEqual((await node.run(left)).code, 0, left)
      assert.equal(await node.must('find /sys/fs/cgroup -name "*hedgerow*"'), '')
    },
  },
]

const NAME = 'hello.demo.greeter.demo.any.rr.local'
const CALL = `hedgerow with-proxy -- curl -s http://${NAME}:8080/`

export const PROOFS: readonly Proof[] = [...INSTALL, ...RIGHTS, ...DAILY, ...FAILURES, ...MAINTENANCE]
