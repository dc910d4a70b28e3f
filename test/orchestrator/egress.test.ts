import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { egressRules, isNamed, readEgressRule } from '../../src/core/model/egress.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { ContainerGuard } from '../../src/orchestrator/worker/docker/container-guard.ts'
import { EgressNames } from '../../src/orchestrator/worker/egress-names.ts'
import { ProcessRuntime } from '../../src/orchestrator/worker/process-runtime.ts'
import { ProgramGuard, programRules } from '../../src/orchestrator/worker/program-guard.ts'
import { addressesIn } from '../../resolver/codec.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { documentWith, faultsOf } from './sla-documents.ts'
import { specOf } from './specs.ts'

t.test('what an instance may call outside the mesh', (t) => {
  const rows: [text: string, rule: object][] = [
    ['10.0.0.0/8:443', { to: { kind: 'range', cidr: '10.0.0.0/8' }, port: 443, protocol: 'tcp' }],
    ['192.0.2.7', { to: { cidr: '192.0.2.7/32' }, port: undefined }],
    ['192.0.2.0/24:53/udp', { port: 53, protocol: 'udp' }],
    ['[2001:db8::/32]:443', { to: { cidr: '2001:db8::/32' }, port: 443 }],
    ['api.example.com:443', { to: { kind: 'name', name: 'api.example.com' }, port: 443 }],
    ['*.example.com:8443', { to: { name: '*.example.com' } }],
  ]
  for (const [text, rule] of rows) t.match(readEgressRule(text), rule, text)
  for (const text of [
    '',
    '10.0.0.0/33',
    '300.1.1.1',
    'localhost:80',
    'api.example.com',
    '1.2.3.4:0',
    '1.2.3.4:70000',
    'a.b:1; flush ruleset',
    '[::1',
  ])
    t.type(readEgressRule(text), 'string', text)
  const [name] = egressRules(['*.example.com:443', 'none of these'])
  if (name === undefined) throw new Error('it is one')
  t.same(
    ['a.example.com', 'a.b.example.com', 'example.com', 'badexample.com'].map((host) => isNamed(name, host)),
    [true, true, false, false],
  )
  t.end()
})

t.test('egress in a document', (t) => {
  const rows: [written: unknown, spec: object][] = [
    ['all', { egress: undefined, egressTo: undefined }],
    ['none', { egress: 'none', egressTo: undefined }],
    ['names', { egress: 'none', egressTo: undefined }],
    [[], { egress: 'none', egressTo: undefined }],
    [
      ['names', '10.0.0.0/8:443', 'API.example.com:443'],
      { egress: 'none', egressTo: ['10.0.0.0/8:443', 'api.example.com:443'] },
    ],
  ]
  for (const [egress, spec] of rows) t.match(specOf({ egress }), spec, JSON.stringify(egress))
  const faults = (egress: unknown) => JSON.stringify(faultsOf(documentWith({ egress })))
  t.match(faults('some'), /egress.*must be all, none, names or a list/)
  t.match(faults(['example.com', 7]), /egress\[0\].*needs a port.*egress\[1\].*not a text/)
  t.end()
})

t.test('names are open for as long as their answers say, and a while', (t) => {
  let now = 0
  const names = new EgressNames(() => now)
  const rules = egressRules(['api.example.com:443', '*.example.com:53/udp'])
  const found = [{ address: '192.0.2.1', ttlSeconds: 60 }]
  t.same(names.answered('x', rules, 'api.example.com', found), [
    { who: 'x', address: '192.0.2.1', port: 443, protocol: 'tcp' },
    { who: 'x', address: '192.0.2.1', port: 53, protocol: 'udp' },
  ])
  t.same(names.answered('x', rules, 'api.example.com', found), [], 'the same again')
  t.same(names.answered('x', rules, 'other.test', found), [], 'a name that it may not call')
  t.equal(names.answered('y', rules, 'a.example.com', found).length, 1, 'each for itself')
  now = 659_000
  t.equal(names.all().length, 3)
  now = 661_000
  t.equal(names.all().length, 0)
  names.answered('x', rules, 'api.example.com', found)
  names.forget('x')
  t.equal(names.all().length, 0)
  t.end()
})

t.test('the addresses of a reply', (t) => {
  const reply = Buffer.from(
    '0001818000010003000000000161047465737400'.concat('00010001c00c000500010000003c0003016204'),
    'hex',
  )
  t.same(addressesIn(reply), [], 'cut off')
  t.same(addressesIn(Buffer.alloc(3)), [])
  const a = [
    '000181800001000200000000',
    '016104746573740000010001',
    'c00c00010001000000780004c0000201',
    'c00c001c00010000003c001020010db8000000000000000000000001',
  ].join('')
  t.same(addressesIn(Buffer.from(a, 'hex')), [
    { address: '192.0.2.1', ttlSeconds: 120 },
    { address: '2001:db8::1', ttlSeconds: 60 },
  ])
  t.end()
})

t.test('a container’s own question opens a name for it', async (t) => {
  const texts: string[] = []
  const apply = async (rules: string) => void texts.push(rules)
  const guard = new ContainerGuard({
    name: 'hg',
    bridge: 'br-h',
    vips4: '10.30.0.0/16',
    vips6: undefined,
    apply,
    log: silentLog,
  })
  await guard.open()
  await guard.begin([])
  const mac = '02:42:ac:12:00:09'
  await guard.admit({
    mac,
    ipv4: '172.18.0.9',
    isClosed: true,
    egressTo: egressRules(['10.1.0.0/16:443', 'api.example.com:443']),
  })
  const rules = texts.at(-1) ?? ''
  t.match(
    rules,
    /outside iifname "br-h" ether saddr 02:42:ac:12:00:09 ip daddr 10\.1\.0\.0\/16 tcp dport 443 accept\n[^]*outside .*@closed.* reject/,
  )
  t.match(
    rules,
    /inside iifname "br-h" ether saddr 02:42:ac:12:00:09 ip daddr 10\.1\.0\.0\/16 tcp dport 443 accept\n[^]*inside .* reject/,
  )
  t.equal(guard.namedBy('172.18.0.9', 'other.example.com'), undefined)
  t.equal(guard.namedBy('172.18.0.8', 'api.example.com'), undefined, 'another container')
  await guard.namedBy('172.18.0.9', 'api.example.com')?.([{ address: '192.0.2.1', ttlSeconds: 60 }])
  t.equal(texts.at(-1), `add element inet hg named4 { ${mac} . 192.0.2.1 . tcp . 443 }\n`)
  await guard.keep()
  t.match(
    texts.at(-1),
    /add element inet hg named4 \{ 02:42:ac:12:00:09 \. 192\.0\.2\.1 \. tcp \. 443 \}/,
    'it stays when all is set again',
  )
  guard.release('172.18.0.9')
  await guard.close()
  t.notMatch(texts.at(-1), /192\.0\.2\.1/)
})

const PROGRAMS = { name: 'hp', ranges: ['127.16.0.0/12'], proxyPorts: () => [1080, 0] }

t.test('programs are kept in the mesh by their users, or not started', async (t) => {
  const texts: string[] = []
  const guard = new ProgramGuard({ ...PROGRAMS, apply: async (rules) => void texts.push(rules), log: silentLog })
  await guard.open()
  t.equal(guard.reason, undefined)
  texts.length = 0
  guard.adopt({ uid: 60_001, instance: 'a', egressTo: egressRules(['api.example.com:443']) })
  t.same(texts, [], 'nothing changes until all that an earlier agent left are known')
  const admitted = guard.admit({ uid: 60_002, instance: 'b', egressTo: [] })
  await guard.begin()
  await admitted
  t.match(texts.at(-1), /closed \{ 60001, 60002 \}/)
  t.ok(guard.holds('b'))
  await guard.answered(60_001, 'api.example.com', [{ address: '192.0.2.1', ttlSeconds: 1 }])
  t.equal(texts.at(-1), 'add element inet hp named4 { 60001 . 192.0.2.1 . tcp . 443 }\n')
  await guard.release(60_001)
  await guard.release(60_002)
  t.equal(texts.at(-1), 'add table inet hp\ndelete table inet hp\n')
  const count = texts.length
  await guard.keep()
  t.equal(texts.length, count, 'nothing is set where nobody needs it')

  const closed = specOf({ egress: 'none', cmd: ['true'] })
  t.match(
    new ProcessRuntime({ node: 'edge/n1', guard }).refuses(closed),
    /egress of programs cannot be kept on this node: they have no users/,
  )
  const without = new ProgramGuard({ ...PROGRAMS, apply: undefined, log: silentLog })
  await without.open()
  t.match(without.reason, /may not set rules/)
})

const noRights =
  (process.geteuid?.() !== 0 || !hasTool('nft') || !hasTool('setpriv') || !hasTool('unshare')) &&
  'needs root, nft, setpriv and unshare'

t.test('the kernel keeps them to it', { skip: noRights }, async (t) => {
  const egressTo = egressRules(['127.0.0.1:8001'])
  const rules = programRules(
    PROGRAMS,
    [{ uid: 60_001, instance: 'a', egressTo }],
    [{ who: '60001', address: '127.0.0.3', port: 8_000, protocol: 'tcp' }],
  )
  // in a network of its own: a server at each place, and who reaches it as which user
  const script = `
    ip link set lo up; printf '%s' "$RULES" | nft -f - || exit 1
    node=${process.execPath}
    $node -e "for (const p of [8000,8001,1080]) require('net').createServer(s=>s.end()).listen(p,'0.0.0.0',()=>p===1080&&console.log('up'))" > /tmp/up.$$ & server=$!
    until grep -q up /tmp/up.$$; do sleep 0.02; done; rm /tmp/up.$$
    try() { setpriv --reuid=$1 --regid=$1 --clear-groups bash -c "exec 3<>/dev/tcp/$2/$3" 2>/dev/null && echo "$1 $2 $3 yes" || echo "$1 $2 $3 no"; }
    try 60002 127.0.0.1 8000; try 60001 127.0.0.1 8000; try 60001 127.16.0.9 8000; try 60001 127.0.0.1 1080
    try 60001 127.0.0.1 8001; try 60001 127.0.0.2 8001; try 60001 127.0.0.3 8000; try 60001 127.0.0.3 8001
    kill $server`
  const { stdout } = await promisify(execFile)('unshare', ['-n', 'bash', '-c', script], {
    env: { ...process.env, RULES: rules },
  })
  t.same(stdout.trim().split('\n'), [
    '60002 127.0.0.1 8000 yes',
    '60001 127.0.0.1 8000 no',
    '60001 127.16.0.9 8000 yes',
    '60001 127.0.0.1 1080 yes',
    '60001 127.0.0.1 8001 yes',
    '60001 127.0.0.2 8001 no',
    '60001 127.0.0.3 8000 yes',
    '60001 127.0.0.3 8001 no',
  ])
})
