import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { explain } from '../../src/core/errors.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { Container } from '../../src/orchestrator/worker/docker/container.ts'
import { endContainer } from '../../src/orchestrator/worker/docker/end-container.ts'
import { containerBody, containerName } from '../../src/orchestrator/worker/docker/container-body.ts'
import { SecretFiles } from '../../src/orchestrator/worker/secret-files.ts'
import { KeptVolumes } from '../../src/orchestrator/worker/docker/kept-volumes.ts'
import { DockerRuntime } from '../../src/orchestrator/worker/docker/docker-runtime.ts'
import { refusedPorts } from '../../src/orchestrator/worker/host-ports.ts'
import { Engine } from '../../src/orchestrator/worker/docker/engine.ts'
import { exitReason, healthFault } from '../../src/orchestrator/worker/docker/exit-reason.ts'
import { candidateSockets } from '../../src/orchestrator/worker/docker/find-engine.ts'
import { imageOf, pullQuery } from '../../src/orchestrator/worker/docker/image.ts'
import { justAfter, LogFrames, secondsOf } from '../../src/orchestrator/worker/docker/log-frames.ts'
import { dueImages, PulledImages, type PulledImage } from '../../src/orchestrator/worker/docker/pulled-images.ts'
import { ContainerGuard } from '../../src/orchestrator/worker/docker/container-guard.ts'
import { macOf } from '../../src/orchestrator/worker/docker/container-rules.ts'
import {
  cidr6,
  gateway6,
  prefix6,
  toIPv4,
  toIPv6,
  wouldLoseRoute,
} from '../../src/orchestrator/worker/docker/container-ipv6.ts'
import { ContainerNetwork, takenBridge } from '../../src/orchestrator/worker/docker/container-network.ts'
import { collision, freeAddress, gatewayOf, holds, subnetOf } from '../../src/orchestrator/worker/docker/subnet.ts'
import { portsOfNode } from '../../src/orchestrator/scheduling/candidate.ts'
import { statOf } from '../../src/orchestrator/worker/process-group.ts'
import { ManualClock } from '../support/manual-clock.ts'
import type { Ended, Running, Runtime } from '../../src/orchestrator/worker/runtime.ts'
import { until } from '../support/until.ts'
import { assignmentOf, factsOf } from './specs.ts'
import { freshDir, nodeWith } from './worker-node.ts'

t.test('where an engine is looked for', async (t) => {
  const look = (setting: string, environment: Record<string, string>, uid = 0) =>
    candidateSockets({ setting, environment, uid })
  const rows = [
    {
      why: 'what is configured, alone',
      found: look('/x.sock', { DOCKER_HOST: 'unix:///y' }),
      first: ['/x.sock'],
      count: 1,
    },
    { why: 'as DOCKER_HOST is written', found: look('unix:///x.sock', {}), first: ['/x.sock'], count: 1 },
    {
      why: 'what the environment names comes first',
      found: look('auto', { DOCKER_HOST: 'unix:///y' }),
      first: ['/y', '/var/run/docker.sock'],
      count: 5,
    },
    {
      why: 'an engine on another machine is none',
      found: look('auto', { DOCKER_HOST: 'tcp://h:2375' }),
      first: ['/var/run/docker.sock'],
      count: 4,
    },
    {
      why: 'a user’s own first',
      found: look('auto', { XDG_RUNTIME_DIR: '/r' }, 1_000),
      first: ['/r/docker.sock', '/r/podman/podman.sock', '/var/run/docker.sock'],
      count: 4,
    },
  ]
  for (const { why, found, first, count } of rows) {
    t.same(found.slice(0, first.length), first, why)
    t.equal(found.length, count, why)
  }
})

t.test('addresses of containers', async (t) => {
  const subnet = subnetOf('172.18.0.0/29')
  if (subnet === undefined) throw new Error('it is one')
  t.equal(gatewayOf(subnet), '172.18.0.1')
  t.ok(holds(subnet, '172.18.0.7'))
  t.notOk(holds(subnet, '172.18.0.8'))
  t.notOk(holds(subnet, 'fe80::1'))
  const taken = new Set(['172.18.0.1'])
  const take = (preferred?: string) => {
    const address = freeAddress(subnet, taken, { preferred, random: () => 0.99 })
    if (address !== undefined) taken.add(address)
    return address
  }
  t.equal(take('172.18.0.3'), '172.18.0.3', 'the last one again')
  t.not(take('172.18.0.3'), '172.18.0.3', 'not while somebody has it')
  t.same([take(), take(), take()].filter(Boolean).length, 3)
  t.equal(take(), undefined, 'all are given')
  t.same(
    [...taken].toSorted(),
    [1, 2, 3, 4, 5, 6].map((last) => `172.18.0.${last}`),
  )
  for (const wrong of ['172.18.0.0', '172.18.0.0/33', '172.18.0.0/30', 'fd00::/64', '999.0.0.0/16'])
    t.equal(subnetOf(wrong), undefined, wrong)
})

t.test('a range that leads to something else', async (t) => {
  const rows = [
    { range: '10.30.4.0/24', other: '10.30.0.0/16', isFree: false },
    { range: '10.0.0.0/8', other: '10.30.0.0/16', isFree: false },
    { range: '192.168.0.0/16', other: '192.168.7.9/32', isFree: false },
    { range: '10.31.0.0/16', other: '10.30.0.0/16', isFree: true },
    { range: '10.31.0.0/16', other: 'fd00::/48', isFree: true },
  ]
  for (const { range, other, isFree } of rows) {
    const subnet = subnetOf(range)
    if (subnet === undefined) throw new Error('it is one')
    const fault = collision(subnet, [{ cidr: other, of: 'the VIPs' }])
    t.equal(fault, isFree ? undefined : `${range}, the range of containers, overlaps ${other}, the VIPs`)
  }
})

t.test('IPv6 addresses of containers', async (t) => {
  const prefix = prefix6('12345678ab')
  t.equal(cidr6(prefix), 'fd12:3456:78ab::/64')
  t.equal(gateway6(prefix), 'fd12:3456:78ab::1')
  for (const ipv4 of ['172.18.0.9', '10.0.0.0', '192.168.255.254']) {
    const ipv6 = toIPv6(prefix, ipv4)
    t.equal(toIPv4(prefix, ipv6), ipv4, ipv6)
  }
  for (const other of ['fd12:3456:78ac::ac12:9', '::ffff:172.18.0.9', 'fe80::1', 'fe80::1%eth0', '172.18.0.9', ''])
    t.equal(toIPv4(prefix, other), undefined, other)

  const route = (flags: string) =>
    `${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00 fe8000000000000000000000000000fe 00000400 00000001 00000000 ${flags}     eth0\n`
  t.match(wouldLoseRoute('0\n', route('00450003')), /router advertisements/)
  t.equal(wouldLoseRoute('1\n', route('00450003')), undefined, 'it is a router already')
  t.equal(wouldLoseRoute('0\n', route('00000003')), undefined, 'a route that somebody has set stays')
  t.equal(wouldLoseRoute('', ''), undefined)
})

t.test('a name of a bridge that somebody else has', async (t) => {
  const devices = t.testdir({
    idle: { bridge: {}, brif: {} },
    used: { bridge: {}, brif: { veth0: '' } },
    dummy: { address: '' },
  })
  t.equal(takenBridge('idle', devices), undefined, 'an engine has left it')
  t.match(
    takenBridge('used', devices),
    /the interface used, .* belongs to somebody else: it is a bridge that is in use/,
  )
  t.match(takenBridge('dummy', devices), /it is no bridge/)
  t.equal(takenBridge('absent', devices), undefined)
})

t.test('the network of the containers of an agent', async (t) => {
  interface Network {
    Labels: Record<string, string>
    EnableIPv6?: boolean
    IPAM: { Config: { Subnet: string }[] }
  }
  const world = { network: undefined as Network | undefined, range: '172.18.0.0/16', isUsed: false, hasIPv6: false }
  const ours = (range: string): Network => ({
    Labels: { 'hedgerow.agent': 'x' },
    IPAM: { Config: [{ Subnet: range }] },
  })
  await using fake = await fakeEngine(async (request, response) => {
    const { method = '' } = request
    if (method === 'POST') {
      let text = ''
      for await (const chunk of request) text += String(chunk)
      const { EnableIPv6 = false, IPAM } = JSON.parse(text) as Partial<Network>
      if (EnableIPv6 && !world.hasIPv6) response.statusCode = 400
      else world.network = { ...ours(world.range), EnableIPv6, ...(IPAM === undefined ? {} : { IPAM }) }
    } else if (world.network === undefined) response.statusCode = 404
    else if (method === 'DELETE' && world.isUsed) response.statusCode = 403
    else if (method === 'DELETE') world.network = undefined
    response.end(JSON.stringify(method === 'GET' ? (world.network ?? {}) : {}))
  })
  const { engine } = fake
  const open = (subnet: string) => {
    const avoids = [{ cidr: '10.30.0.0/16', of: 'the VIPs' }]
    const network = new ContainerNetwork({ agent: 'x', bridge: 'br-hx', subnet, avoids })
    return network.open(engine).then((found) => ({ network, range: found.cidr }))
  }
  const first = await open('auto')
  t.equal(first.range, '172.18.0.0/16', 'the engine has found it')
  t.equal((await open('172.25.0.0/24')).range, '172.25.0.0/24', 'another one is configured')
  world.isUsed = true
  t.equal((await open('172.26.0.0/24')).range, '172.25.0.0/24', 'it stays while containers are on it')
  await first.network.remove(engine)
  t.ok(world.network, 'the last agent leaves it to them, too')
  world.isUsed = false
  await first.network.remove(engine)
  t.equal(world.network, undefined, 'nothing is left of it')

  const ipv6 = prefix6('12345678ab')
  const twice = new ContainerNetwork({ agent: 'x', bridge: 'br-hx', subnet: 'auto', avoids: [], ipv6 })
  await twice.open(engine)
  t.match(twice.refusal6, /400/, 'an engine without IPv6')
  t.equal(twice.ipv6Of('172.18.0.9'), undefined)
  world.hasIPv6 = true
  const newer = new ContainerNetwork({ agent: 'x', bridge: 'br-hx', subnet: 'auto', avoids: [], ipv6 })
  await newer.open(engine)
  t.match([newer.refusal6, newer.ipv6Of('172.18.0.9')], [undefined, 'fd12:3456:78ab::ac12:9'], 'it has learnt it')
  t.equal(newer.ipv4Of('fd12:3456:78ab::ac12:9'), '172.18.0.9')
  t.equal(newer.ipv4Of('fd12:3456:78ab::ad12:9'), undefined, 'not in its range')
  await newer.remove(engine)

  const isRefused = async (subnet: string, reason: RegExp) => t.match(await open(subnet).catch(explain), reason)
  await isRefused('10.30.7.0/24', /overlaps 10\.30\.0\.0\/16, the VIPs; give another one in agent\.containers\.subnet/)
  await isRefused('127.0.0.0/16', /overlaps 127\.0\.0\.1\/8, which lo has/)
  world.range = '10.30.0.0/24'
  await isRefused('auto', /overlaps 10\.30\.0\.0\/16, the VIPs/)
  t.equal(world.network, undefined, 'and is not left there')
  world.network = { ...ours('172.18.0.0/16'), Labels: {} }
  await isRefused('auto', /the engine has a network x that is not this agent’s; remove it/)
})

t.test('what a container printed, out of frames', async (t) => {
  const frame = (text: string) => {
    const head = Buffer.from([1, 0, 0, 0, 0, 0, 0, 0])
    head.writeUInt32BE(Buffer.byteLength(text), 4)
    return Buffer.concat([head, Buffer.from(text)])
  }
  const [first, second] = ['2026-11-30T08:30:21.169187623Z', '2026-11-30T08:30:22Z']
  const stream = Buffer.concat([frame(`${first} one\n`), frame(`${second} two words\n`), frame(`${second} \n`)])
  for (const size of [1, 3, 7, 8, 9, 40, 1_000]) {
    const frames = new LogFrames()
    const printed: Buffer[] = []
    for (let at = 0; at < stream.length; at += size) printed.push(...frames.take(stream.subarray(at, at + size)))
    t.equal(Buffer.concat(printed).toString(), 'one\ntwo words\n\n', `cut every ${size} bytes`)
    t.equal(frames.since, '1796027422+2', 'two frames of a second that is all the engine says')
  }
  const next = new LogFrames('1796027422+2')
  const goesOn = [' \n', ' two words\n', ' three\n', ' four\n'].map((text) => frame(`${second}${text}`))
  t.equal(Buffer.concat(next.take(Buffer.concat(goesOn))).toString(), 'three\nfour\n', 'those are not read again')
  t.equal(next.since, '1796027422+4')
  t.same([secondsOf('1796027422+4'), secondsOf('1796027421.169187624')], ['1796027422', '1796027421.169187624'])
  t.equal(Buffer.concat(new LogFrames().take(frame('x'.repeat(100)))).length, 100, 'without a stamp nothing is lost')
  t.equal(justAfter(first), '1796027421.169187624')
  t.equal(justAfter('2026-11-30T08:30:21.999999999Z'), '1796027422.000000000')
  t.equal(justAfter('2026-11-30T09:30:21.5+01:00'), '1796027421.500000001', 'an engine in local time')
  t.equal(justAfter('yesterday'), undefined)
})

t.test('how a container ended', async (t) => {
  const rows = [
    { state: { ExitCode: 0 }, detail: 'exited with code 0' },
    { state: { ExitCode: 143 }, detail: 'exited with code 143 (SIGTERM)' },
    { state: { ExitCode: 137 }, detail: 'exited with code 137 (SIGKILL), perhaps out of memory (its limit is 64 MB)' },
    { state: { ExitCode: 127, Error: 'no such file' }, detail: 'exited with code 127: no such file' },
    { state: { ExitCode: 137, OOMKilled: true }, detail: 'killed: out of memory (its limit is 64 MB)' },
    {
      state: { ExitCode: 1, OOMKilled: true },
      detail: 'exited with code 1; a process of it was killed: out of memory (its limit is 64 MB)',
    },
  ]
  for (const { state, detail } of rows) t.same(exitReason(state, 64), { code: state.ExitCode, detail })
  const away = exitReason({ ExitCode: 137 }, 64, true).detail
  t.equal(away, 'exited with code 137 (SIGKILL) while the container engine did not answer', 'not taken for memory')
  t.match(exitReason({ ExitCode: 137, OOMKilled: true }, 0).detail, /the memory of the node is full/)
  t.equal(healthFault({ Health: { Status: 'healthy' } }), undefined)
  t.match(healthFault({ Health: { Status: 'unhealthy', Log: [{ Output: 'a' }, { Output: ' b\n' }] } }), /fails: b$/)
})

t.test('the container of a service', async (t) => {
  const facts = {
    agent: 'hedgerow-x',
    node: 'edge/n1',
    run: '0123456789abcdef',
    network: 'hedgerow-x',
    address: '172.18.0.9',
    resolvConf: '/state/resolv.conf',
  }
  const bodyOf = (service: object) =>
    containerBody({ ...facts, assignment: assignmentOf({ runtime: 'docker', code: 'shop:1', cmd: [], ...service }) })
  const plain = bodyOf({})
  t.match(plain, {
    Image: 'shop:1',
    Labels: { 'hedgerow.agent': 'hedgerow-x', 'hedgerow.instance': 'shop.acme.cart.prod.0', 'hedgerow.run': facts.run },
    NetworkingConfig: { EndpointsConfig: { 'hedgerow-x': { IPAMConfig: { IPv4Address: '172.18.0.9' } } } },
    HostConfig: { RestartPolicy: { Name: 'no' }, PidsLimit: 4_096, Mounts: [{ Source: '/state/resolv.conf' }] },
  })
  for (const key of ['Cmd', 'WorkingDir', 'Entrypoint', 'User']) t.notOk(key in plain, `${key} is the image's`)
  const { HostConfig: host } = plain as { HostConfig: object }
  for (const key of ['Memory', 'NanoCpus', 'Privileged', 'DeviceRequests'])
    t.notOk(key in host, `${key} was not asked for`)
  t.match(
    bodyOf({ memory: 64, vcpus: 1.5, vgpus: 1, privileged: true, cmd: ['--port', '${PORT}', '$$x'], port: '80:8080' }),
    {
      Cmd: ['--port', '8080', '$x'],
      HostConfig: {
        Memory: 67_108_864,
        MemorySwap: 67_108_864,
        NanoCpus: 1.5e9,
        Privileged: true,
        DeviceRequests: [{ Count: 1 }],
      },
    },
  )
  const ports = [
    { port: 80, target: 8080, host_port: 8000 },
    { port: 81, target: 8080, host_port: 8001 },
    { port: 53, protocol: 'udp', host_port: 5353 },
    { port: 9000 },
  ]
  const published = bodyOf({ ports })
  t.match(published, { ExposedPorts: { '8080/tcp': {}, '53/udp': {} } })
  t.match(published, {
    HostConfig: {
      PortBindings: { '8080/tcp': [{ HostPort: '8000' }, { HostPort: '8001' }], '53/udp': [{ HostPort: '5353' }] },
    },
  })
  t.notOk('ExposedPorts' in plain, 'otherwise no port is published')
  const { spec } = assignmentOf({ runtime: 'docker', code: 'shop:1', ports })
  t.same(refusedPorts(spec.ports, '1024-65535'), [])
  t.same(refusedPorts(spec.ports, '1-8000'), [8001])
  t.same(refusedPorts(spec.ports, 'off'), [8000, 8001, 5353])
  t.same(portsOfNode(spec), ['tcp/8000', 'tcp/8001', 'udp/5353'])
  t.match(
    containerName(`${'x'.repeat(300)}.ü`, facts.run),
    /^hedgerow-x{180}-01234567$/,
    'no longer than an engine takes',
  )
})

const NOWHERE = { readJson: () => undefined, put: async () => undefined }
const TABLE = { name: 'hedgerow_x', bridge: 'br-hx', vips4: '10.30.0.0/16', vips6: undefined }
function guardWith(apply?: (rules: string) => Promise<void>): ContainerGuard {
  return new ContainerGuard({ ...TABLE, apply, log: silentLog })
}

t.test('rules for containers', async (t) => {
  const [open, closed] = ['172.18.0.9', '172.18.1.255'].map((ipv4, i) => ({
    mac: macOf(ipv4),
    ipv4,
    isClosed: i === 1,
  }))
  if (open === undefined || closed === undefined) throw new Error('both are there')
  const texts: string[] = []
  const guard = guardWith(async (rules) => void texts.push(rules))
  await guard.open()
  t.equal(guard.reason, undefined)
  t.match(texts.splice(0).join(), /create table inet hedgerow_x_trial\n[^]*delete table inet hedgerow_x_trial\n$/)

  const before = texts.length
  await guard.admit(open)
  guard.release(open.ipv4)
  await guard.close()
  t.equal(
    texts.length,
    before,
    'what an earlier agent set stays until its containers are known, also if this one ends before',
  )
  await guard.begin([])
  texts.length = 0
  await guard.admit(open)
  const [first = ''] = texts.splice(0)
  t.match(first, /add element inet hedgerow_x own4 \{ 02:42:ac:12:00:09 \. 172\.18\.0\.9 \}/)
  t.match(first, /oifname "br-hx" iifname != "br-hx" .* dnat == 0 counter drop/, 'nobody comes in past the agent')
  t.notMatch(first, / reject/, 'and what is not closed may call')
  await guard.admit(closed)
  const [both = ''] = texts.splice(0)
  t.match(both, /own4 \{ 02:42:ac:12:00:09 \. 172\.18\.0\.9, 02:42:ac:12:01:ff \. 172\.18\.1\.255 \}/)
  t.match(both, /closed \{ 02:42:ac:12:01:ff \}/)
  t.match(both, /inside iifname "br-hx" ether saddr @closed ct state .* ip daddr != 10\.30\.0\.0\/16 reject/)

  guard.pause()
  guard.release(open.ipv4)
  await guard.keep()
  t.same(texts, [], 'while a successor has them')
  guard.resume()
  guard.release(closed.ipv4)
  await guard.close()
  t.equal(texts.at(-1), 'add table inet hedgerow_x\ndelete table inet hedgerow_x\n', 'nothing is left of it')

  const without = guardWith()
  await without.open()
  t.match(without.reason, /may not set rules of nftables/)
  const refused = guardWith(() => Promise.reject(new Error('no such table')))
  await refused.open()
  t.equal(refused.reason, 'nft: no such table')
  await refused.admit(open)
  t.pass('containers run all the same')
})

/** An engine that knows one image, as it is told to. */
async function fakeEngine(answer: (request: IncomingMessage, response: ServerResponse) => unknown, answerMs?: number) {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-fake-'))
  const asked: string[] = []
  const server = createServer((request, response) => {
    if (request.url === '/_ping') return void response.end('OK')
    asked.push(`${request.method} ${request.url}`)
    if (request.url === '/version')
      response.end(JSON.stringify({ ApiVersion: '1.41', Version: '20.10', Arch: 'amd64' }))
    else void answer(request, response)
  })
  await once(server.listen(join(dir, 'sock')), 'listening')
  return {
    path: join(dir, 'sock'),
    asked,
    async leave() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
    async comeBack() {
      await once(server.listen(join(dir, 'sock')), 'listening')
    },
    engine: await Engine.connect(join(dir, 'sock'), 1_000, answerMs),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      rmSync(dir, { recursive: true })
    },
  }
}

t.test('images: present, pulled, refused', async (t) => {
  t.same(pullQuery('nginx'), { fromImage: 'nginx', tag: 'latest' }, 'not every tag there is')
  t.same(pullQuery('host:5000/a/b'), { fromImage: 'host:5000/a/b', tag: 'latest' })
  t.same(pullQuery('host:5000/a/b:1.2'), { fromImage: 'host:5000/a/b', tag: '1.2' })
  t.same(pullQuery('a@sha256:00'), { fromImage: 'a@sha256:00' })

  const rows = [
    { why: 'there', has: { Id: 'i', Architecture: 'amd64' }, pulls: 0, says: undefined },
    { why: 'never', pull: 'never' as const, pulls: 0, says: /not on this node, and pull is never: shop:1/ },
    { why: 'pulled', comes: { Id: 'i', Architecture: 'amd64' }, pulls: 1, says: undefined },
    { why: 'always', pull: 'always' as const, has: { Id: 'i' }, pulls: 1, says: undefined },
    { why: 'fault', fault: 'manifest unknown', pulls: 1, says: /cannot be pulled: manifest unknown: shop:1/ },
    {
      why: 'arch',
      has: { Id: 'i', Architecture: 'arm64' },
      pulls: 0,
      says: /the image is for arm64, and this node is amd64/,
    },
  ]
  for (const { why, has, comes, pull, fault, pulls, says } of rows) {
    let image: object | undefined = has
    await using fake = await fakeEngine((request, response) => {
      if (request.url?.startsWith('/v1.41/images/create') === true) {
        image ??= comes
        return response.end(
          `${JSON.stringify({ status: 'Pulling' })}\n${fault === undefined ? '' : JSON.stringify({ error: fault })}`,
        )
      }
      response.statusCode = image === undefined ? 404 : 200
      response.end(JSON.stringify(image ?? { message: 'No such image' }))
    })
    const needs = { say: () => undefined, signal: new AbortController().signal }
    const spec = { code: 'shop:1', ...(pull === undefined ? {} : { pull }) }
    const said = await imageOf(fake.engine, spec, needs).then(() => undefined, explain)
    t.equal(fake.asked.filter((each) => each.startsWith('POST')).length, pulls, `${why}: pulls`)
    if (says === undefined) t.equal(said, undefined, why)
    else t.match(said, says, why)
  }
})

t.test('images that nobody uses', async (t) => {
  const image = (id: string, usedAt: number): PulledImage => ({ id, reference: `${id}:1`, usedAt })
  t.same(dueImages([image('old', 0), image('new', 60)], { now: 100, keepMs: 50 }), [image('old', 0)])

  let kept = '[]'
  const record = { readJson: () => JSON.parse(kept) as unknown, put: async (text: string) => void (kept = text) }
  const moved = 'moved:1' // the name means another image by now
  await using fake = await fakeEngine(({ method, url = '' }, response) => {
    if (url.includes('/containers/json')) return response.end(JSON.stringify([{ ImageID: 'used' }]))
    if (method === 'DELETE' && url.includes('tagged')) response.statusCode = 409
    const [, reference = ''] = /images\/(.*?)(?:\/json)?$/.exec(decodeURIComponent(url)) ?? []
    response.end(JSON.stringify({ Id: reference === moved ? 'other' : reference.replace(':1', '') }))
  })
  const images = new PulledImages({ record, keepMs: 50, log: silentLog })
  for (const id of ['used', 'idle', 'moved', 'tagged']) images.used({ id, reference: `${id}:1`, isNew: true }, 0)
  images.used({ id: 'operators', reference: 'operators:1', isNew: false }, 0)
  const next = new PulledImages({ record, keepMs: 50, log: silentLog })
  next.used({ id: 'idle', reference: 'idle:1', isNew: false }, 30)
  const deleted = () => fake.asked.splice(0).filter((each) => each.startsWith('DELETE'))
  await next.sweep(fake.engine, 60)
  t.same(deleted(), ['DELETE /v1.41/images/moved', 'DELETE /v1.41/images/tagged:1'], 'not what was used since')
  await next.sweep(fake.engine, 100)
  t.same(deleted(), ['DELETE /v1.41/images/idle:1'], 'and never what it has not pulled')
  t.same(
    (JSON.parse(kept) as PulledImage[]).map(({ id, usedAt }) => [id, usedAt]),
    [
      ['used', 100],
      ['tagged', 60],
    ],
  )
  await new PulledImages({ record, keepMs: 0, log: silentLog }).sweep(fake.engine, 1_000)
  t.same(fake.asked, [], 'unless they are kept for ever')
})

t.test('volumes of containers are the engine’s: listed by their labels, measured, and removed by it', async (t) => {
  const labels = (agent: string, volume: string) => ({ 'hedgerow.agent': agent, 'hedgerow.volume': volume })
  const Volumes = [
    { Name: 'a-data', Labels: labels('a', 'shop.acme.data'), UsageData: { Size: 7 } },
    { Name: 'a-used', Labels: labels('a', 'shop.acme.used'), UsageData: { Size: -1 } },
    { Name: 'b-data', Labels: labels('b', 'shop.acme.data'), UsageData: { Size: 9 } },
    { Name: 'other', Labels: null },
  ]
  await using fake = await fakeEngine(({ method, url = '' }, response) => {
    if (method === 'DELETE') response.statusCode = url.endsWith('a-used') ? 409 : 204
    response.end(method === 'DELETE' ? '' : JSON.stringify({ Volumes }))
  })
  const kept = new KeptVolumes(() => fake.engine, 'a')
  t.same(await kept.list(), ['shop.acme.data', 'shop.acme.used'])
  const { signal } = new AbortController()
  t.same([...(await kept.sizes(await kept.list(), signal))], [['shop.acme.data', 7]])
  const free = () => undefined
  await kept.remove('shop.acme.data', free)
  t.match(fake.asked.at(-1), /^DELETE .*\/volumes\/a-data$/)
  await t.rejects(kept.remove('shop.acme.used', free), { code: 'VOLUME_IN_USE' })
  await t.rejects(kept.remove('shop.acme.none', free), { code: 'VOLUME_UNKNOWN' })
  const away = new KeptVolumes(() => undefined, 'a')
  t.same(await away.list(), [], 'while it is away there are none')
  await t.rejects(away.remove('shop.acme.data', free), { code: 'NOT_RUNNING' })
})

t.test('an image of a private registry is pulled with the credentials of its secret', async (t) => {
  const rows = [
    {
      code: 'registry.example:5000/shop/cart:1',
      secret: 'ann:s3:cret\n',
      is: ['ann', 's3:cret', 'registry.example:5000'],
    },
    { code: 'shop/cart', secret: 'ann:x\r\n', is: ['ann', 'x', 'https://index.docker.io/v1/'] },
    { code: 'localhost/cart', secret: 'ann:', is: ['ann', '', 'localhost'] },
    { code: 'shop/cart', secret: 'no colon', is: /the registry secret is not user:password/ },
    { code: 'shop/cart', secret: ':x', is: /the registry secret is not user:password/ },
    { code: 'shop/cart', secret: undefined, is: undefined },
  ]
  for (const { code, secret, is } of rows) {
    let header: unknown
    let isThere = false
    await using fake = await fakeEngine((request, response) => {
      if (request.method === 'POST') {
        header = request.headers['x-registry-auth']
        isThere = true
      }
      response.statusCode = isThere ? 200 : 404
      response.end(JSON.stringify(isThere ? { Id: 'i' } : { message: 'No such image' }))
    })
    const credentials = secret === undefined ? undefined : Buffer.from(secret)
    const needs = { say: () => undefined, credentials, signal: new AbortController().signal }
    const said = await imageOf(fake.engine, { code }, needs).then(() => undefined, explain)
    if (is instanceof RegExp) {
      t.match(said, is, code)
      t.equal(isThere, false, 'and nothing is asked of the registry')
    } else if (is === undefined) t.equal(header, undefined, 'anonymously')
    else {
      const [username, password, serveraddress] = is
      const sent = JSON.parse(Buffer.from(String(header), 'base64url').toString('utf8')) as object
      t.same(sent, { username, password, serveraddress }, code)
    }
  }
})

t.test('the end of a container whose agent does not end it', async (t) => {
  const rows = [
    { why: 'it runs', State: { Running: true, Status: 'running' }, asked: ['POST /v1.41/containers/c/stop?t=3'] },
    {
      why: 'it is about to',
      State: { Running: false, Status: 'created' },
      asked: ['DELETE /v1.41/containers/c?force=1&v=1'],
    },
    { why: 'it has ended', State: { Running: false, Status: 'exited' }, asked: [] },
  ]
  for (const { why, State, asked } of rows) {
    let looks = 0
    await using fake = await fakeEngine((request, response) => {
      const isLook = request.url?.endsWith('/json') === true
      if (isLook && ++looks === 1) response.statusCode = 404 // its agent was about to make it
      response.end(JSON.stringify(isLook ? { State } : {}))
    })
    t.equal(await endContainer({ run: 'r', container: 'c', engine: fake.path }), true, why)
    t.same(
      fake.asked.filter((each) => !each.startsWith('GET')),
      asked,
      why,
    )
  }
  const away = { run: 'r', container: 'c', engine: '/nowhere.sock' }
  t.equal(await endContainer(away), false, 'no engine: it is tried again')
  const init = spawn('sleep', ['300'])
  t.teardown(() => init.kill('SIGKILL'))
  const ended = once(init, 'exit')
  const initStartTime = statOf(init.pid as number)?.startTime as number
  t.equal(
    await endContainer({ ...away, init: init.pid as number, initStartTime: initStartTime + 1 }),
    true,
    'another process',
  )
  t.equal(init.exitCode, null)
  t.equal(await endContainer({ ...away, init: init.pid as number, initStartTime }), true)
  t.same(await ended, [null, 'SIGKILL'], 'its first process')
})

t.test('a container that cannot be ended while the engine is away is removed when it is back', async (t) => {
  const found = { State: { Running: true, Pid: 0 }, Config: { Labels: { 'hedgerow.run': 'r' } } }
  await using fake = await fakeEngine(({ url = '', method }, response) => {
    if (url.endsWith('/wait')) return // it runs
    if (url.includes('/networks')) response.statusCode = 404
    const isList = url.includes('/containers/json')
    if (method === 'GET' && url.includes('/logs')) return response.end()
    response.end(JSON.stringify(isList ? [{ Id: 'c', Labels: found.Config.Labels }] : found))
  })
  const clock = new ManualClock()
  const runtime = new DockerRuntime({
    node: 'edge/n1',
    engine: { setting: fake.path, environment: {}, uid: 0 },
    network: { agent: 'hedgerow-x', bridge: 'br-hx', subnet: 'auto', avoids: [] },
    guard: guardWith(),
    hostPorts: 'off',
    hostPaths: [],
    images: new PulledImages({ record: NOWHERE, keepMs: 0, log: silentLog }),
    allowsPrivileged: false,
    resolvConf: undefined,
    seesVips: false,
    secretFiles: new SecretFiles('/tmp/hedgerow-parts', 'containers'),
    clock,
    log: silentLog,
  })
  const traces: object[] = []
  const agentEnds = new AbortController()
  const launch = {
    assignment: assignmentOf({ runtime: 'docker', code: 'shop:1' }),
    endpoints: {},
    environment: {},
    output: async () => openSync('/dev/null', 'w'),
    onTrace: (trace: object) => void traces.push(trace),
    signal: agentEnds.signal,
  }
  const trace = { run: 'r', container: 'c', address: '10.0.0.2' }
  await fake.leave()
  const adopting = runtime.adopt(launch, trace)
  await clock.advance(3_000)
  await fake.comeBack()
  await clock.advance(1_000)
  const running = await adopting
  t.match(traces, [{ ...trace, engine: fake.path }], 'the next agent finds it, and so does the guard of leases')

  await fake.leave()
  const stopping = running?.stop(0)
  await clock.advance(11_000)
  await stopping
  t.match(await running?.ended, { detail: /does not answer; what is left is removed when it does/ })
  await fake.comeBack()
  await runtime.refresh()
  t.ok(fake.asked.includes('DELETE /v1.41/containers/c?force=1&v=1'), 'it is')

  await fake.leave()
  const late = runtime.adopt(launch, trace)
  agentEnds.abort()
  t.equal(await late, undefined, 'an agent that ends does not wait for the engine')
})

t.test('an engine that takes a request and never answers keeps no container from its end', async (t) => {
  /** A container that runs until it is stopped; `isMute`: which requests stay without an answer, or without the end of one. */
  const trial = async (isMute: (request: string) => 'answer' | 'rest' | 'refusal' | undefined) => {
    const init = spawn('sleep', ['300'])
    t.teardown(() => init.kill('SIGKILL'))
    const exit = once(init, 'exit')
    const pid = init.pid as number
    let isRunning = true
    const fake = await fakeEngine(({ url = '', method = '' }, response) => {
      const request = `${method} ${url}`
      if (url.includes('/stop')) isRunning = false
      const mute = isMute(request)
      if (mute === 'answer') return
      if (mute === 'rest') return response.write('{')
      if (mute === 'refusal') return response.writeHead(500).end('{"message":"no way to stop it"}')
      if (url.endsWith('/wait') && isRunning) return
      if (url.includes('/logs')) return response.end()
      response.end(JSON.stringify({ State: isRunning ? { Running: true } : { Running: false, ExitCode: 143 } }))
    }, 200)
    const clock = new ManualClock()
    const told: string[] = []
    const container = Container.follow({
      engine: fake.engine,
      container: 'c',
      trace: { run: 'r', container: 'c', init: pid, initStartTime: statOf(pid)?.startTime as number },
      endpoints: {},
      pid,
      memoryMb: 0,
      hasHealthCheck: false,
      fd: openSync('/dev/null', 'w'),
      controls: {},
      onTrace: () => undefined,
      onGone: () => told.push('gone'),
      onLeft: () => told.push('left'),
      clock,
    })
    const isOver = container.stop(0).then(() => container.ended)
    const over = new AbortController()
    void isOver.finally(() => over.abort())
    while (!over.signal.aborted) {
      await clock.advance(500)
      await new Promise((resolve) => setTimeout(resolve, 10)) // its answers take real time
    }
    const ended = await isOver
    await fake[Symbol.asyncDispose]()
    return { ended, told, init, exit }
  }
  const rows = [
    { why: 'all answer', mute: /^$/, told: 'gone', detail: /^exited with code 143/ },
    { why: 'wait does not', mute: /\/wait$/, told: 'gone', detail: /^exited with code 143/ },
    { why: 'the removal does not', mute: /^DELETE/, told: 'left', detail: /^exited with code 143/ },
    { why: 'stop does not', mute: /\/(stop|wait)/, told: 'left', detail: /the container engine does not answer/ },
  ]
  for (const { why, mute, told, detail } of rows) {
    for (const how of ['answer', 'rest'] as const) {
      const it = await trial((request) => (mute.test(request) ? how : undefined))
      t.same(it.told, [told], `${why}: ${how}`)
      t.match(it.ended, { detail }, `${why}: ${how}`)
      if (why === 'stop does not') t.same(await it.exit, [null, 'SIGKILL'], 'its first process')
      else t.equal(it.init.exitCode ?? it.init.signalCode, null, 'nothing is killed beside the engine')
    }
  }
  const refused = await trial((request) =>
    request.includes('/stop') ? 'refusal' : request.endsWith('/wait') ? 'answer' : undefined,
  )
  t.same(refused.told, ['left'], 'it refuses to stop it')
  t.match(refused.ended, { detail: /the container engine does not stop it: .*no way to stop it; what is left/ })
  t.same(await refused.exit, [null, 'SIGKILL'])
})

t.test('an engine that goes and comes back', async (t) => {
  const makeRuntime = (setting: string) =>
    new DockerRuntime({
      node: 'edge/n1',
      engine: { setting, environment: {}, uid: 0 },
      network: { agent: 'hedgerow-x', bridge: 'br-hx', subnet: 'auto', avoids: [] },
      guard: guardWith(),
      hostPorts: 'off',
      hostPaths: [],
      images: new PulledImages({ record: NOWHERE, keepMs: 0, log: silentLog }),
      allowsPrivileged: false,
      resolvConf: undefined,
      seesVips: false,
      secretFiles: new SecretFiles('/tmp/hedgerow-parts', 'containers'),
      log: silentLog,
    })
  const { spec } = assignmentOf({ runtime: 'docker', code: 'shop:1' })
  const absent = makeRuntime('/nowhere.sock')
  await absent.refresh()
  t.notOk(absent.isOffered)
  t.match(absent.refuses(spec), /runtime docker is not offered here: there is no socket at \/nowhere\.sock/)

  const containers = [
    { Id: 'ours', Labels: { 'hedgerow.run': 'known' } },
    { Id: 'stray', Labels: { 'hedgerow.run': 'forgotten' } },
  ]
  await using fake = await fakeEngine((request, response) => {
    const isList = request.url?.startsWith('/v1.41/containers/json') === true
    if (!isList && request.method === 'GET') response.statusCode = 404
    response.end(JSON.stringify(isList ? containers : {}))
  })
  const runtime = makeRuntime(fake.path)
  await runtime.tidy([{ run: 'known' }])
  t.notOk(
    fake.asked.some((each) => each.startsWith('DELETE')),
    'nobody was there to ask',
  )
  await runtime.refresh()
  t.ok(runtime.isOffered)
  t.same(
    fake.asked.filter((each) => each.startsWith('DELETE')),
    ['DELETE /v1.41/containers/stray?force=1&v=1'],
    'what no record names goes when the engine is there',
  )
})

t.test('an engine that is restarted while a container runs', async (t) => {
  const labels = { 'hedgerow.agent': 'hedgerow-x' }
  const config = { Labels: { 'hedgerow.run': 'r' }, Healthcheck: { Test: ['CMD', 'true'] } }
  let state: object = { Running: true, Pid: 0, Health: { Status: 'healthy' } }
  const made: string[] = []
  await using fake = await fakeEngine(({ url = '', method }, response) => {
    if (url.includes('/wait') && 'Pid' in state) return // it runs
    if (url.includes('/create?name=')) {
      made.push(url)
      if (made.length === 1) return void response.destroy() // it is ended once more, in the middle of a start
      state = { Running: true, Pid: 0, Health: { Status: 'healthy' } }
    }
    if (method === 'GET' && url.includes('/logs')) return response.end()
    const answer = url.includes('/networks')
      ? { Labels: labels, IPAM: { Config: [{ Subnet: '10.0.0.0/24' }] } }
      : url.includes('/images/')
        ? { Id: 'i', Architecture: 'amd64', Os: 'linux', Config: {} }
        : { State: state, Config: config }
    response.end(JSON.stringify(url.includes('/containers/json') ? [] : answer))
  })
  const clock = new ManualClock()
  const runtime = new DockerRuntime({
    node: 'edge/n1',
    engine: { setting: fake.path, environment: {}, uid: 0 },
    network: { agent: 'hedgerow-x', bridge: 'br-hx', subnet: 'auto', avoids: [] },
    guard: guardWith(),
    hostPorts: 'off',
    hostPaths: [],
    images: new PulledImages({ record: NOWHERE, keepMs: 0, log: silentLog }),
    allowsPrivileged: false,
    resolvConf: undefined,
    seesVips: false,
    secretFiles: new SecretFiles('/tmp/hedgerow-parts', 'containers'),
    clock,
    log: silentLog,
  })
  const launch = {
    assignment: assignmentOf({ runtime: 'docker', code: 'shop:1', memory: 64 }),
    endpoints: {},
    environment: {},
    output: async () => openSync('/dev/null', 'w'),
    secrets: async () => [],
    onTrace: () => undefined,
    mayStart: () => Promise.resolve(),
    signal: new AbortController().signal,
  }
  /** Lets time pass until it has settled. */
  const settled = async <T>(promise: Promise<T>): Promise<T> => {
    const over = new AbortController()
    void promise.finally(() => over.abort()).catch(() => undefined)
    while (!over.signal.aborted) {
      await clock.advance(500)
      await new Promise((resolve) => setTimeout(resolve, 10)) // sixty seconds pass in more than one: disk and sockets need real time
    }
    return promise
  }
  await runtime.refresh()
  const running = await runtime.adopt(launch, { run: 'r', container: 'c', address: '10.0.0.2' })
  t.equal(await running?.check?.(), undefined, 'well')
  await fake.leave()
  await runtime.refresh()
  t.notOk(runtime.isOffered)
  t.equal(await running?.check?.(), undefined, 'what its image said last counts while nobody can ask')
  await clock.advance(60_000)

  state = { Running: false, ExitCode: 137 }
  const again = runtime.launch(launch)
  await fake.comeBack()
  const why = 'exited with code 137 (SIGKILL) while the container engine did not answer'
  t.match(await settled(running?.ended ?? Promise.reject(new Error('it was adopted'))), { detail: why })
  const next = await settled(again)
  t.equal(made.length, 2, 'what is to start waits for the engine, also if that ends in the middle')
  next.letGo()

  await fake.leave()
  t.match(
    await settled(runtime.launch(launch).catch(explain)),
    'the container engine is not running',
    'but not for ever',
  )
})

t.test('what is withdrawn before its agent could take it over ends when the engine is back', async (t) => {
  const dir = freshDir()
  const assignment = assignmentOf({ runtime: 'docker', code: 'shop:1', port: '' })
  const { instance } = assignment
  const stopped: number[] = []
  const running = (): Running => {
    const over = Promise.withResolvers<Ended>()
    return {
      endpoints: {},
      isWhole: true,
      pids: () => [],
      ended: over.promise,
      stop: async (graceMs) => {
        stopped.push(graceMs)
        over.resolve({ detail: 'stopped' })
      },
      kill: () => undefined,
      letGo: () => undefined,
    }
  }
  const back = Promise.withResolvers<void>()
  const runtime: Runtime = {
    name: 'docker',
    launch: async ({ onTrace }) => {
      onTrace({ run: 'r', container: 'c' })
      return running()
    },
    adopt: async ({ signal }) => {
      await Promise.race([back.promise, once(signal, 'abort')])
      return signal.aborted ? undefined : running()
    },
  }
  const start = (where: string) => nodeWith({ runtimes: [runtime], facts: factsOf({ runtimes: ['docker'] }) }, where)
  await using first = await start(dir)
  first.worker.assign(assignment)
  await first.becomes('running')
  await first.worker.letGo()

  const copy = freshDir()
  cpSync(dir, copy, { recursive: true })
  const second = await start(copy)
  await second[Symbol.asyncDispose]()
  t.pass('an agent that ends does not wait for the engine')
  await using third = await start(dir)
  third.worker.withdraw(instance)
  await third.becomes('stopping')
  t.same(stopped, [])
  back.resolve()
  await third.becomes('stopped')
  t.equal(stopped.length, 1, 'it has ended, and not only been forgotten')
})

t.test(
  'an agent that ends while an instance is being stopped does not wait for that; the next agent stops it',
  async (t) => {
    const dir = freshDir()
    const assignment = assignmentOf({ runtime: 'docker', code: 'shop:1', port: '' })
    let isStuck = true
    let asked = 0
    /** As a container is: once it is let go, nobody here sees its end. */
    const running = (): Running => {
      const over = Promise.withResolvers<Ended>()
      return {
        endpoints: {},
        isWhole: true,
        pids: () => [],
        ended: over.promise,
        stop: async () => {
          asked++
          if (!isStuck) over.resolve({ detail: 'stopped' })
          await over.promise
        },
        kill: () => undefined,
        letGo: () => undefined,
      }
    }
    const runtime: Runtime = {
      name: 'docker',
      launch: async ({ onTrace }) => {
        onTrace({ run: 'r', container: 'c' })
        return running()
      },
      adopt: async () => running(),
    }
    const config = { runtimes: [runtime], facts: factsOf({ runtimes: ['docker'] }), keepOnClose: true }
    const first = await nodeWith(config, dir)
    first.worker.assign(assignment)
    await first.becomes('running')
    first.worker.withdraw(assignment.instance, { drainSeconds: 0 })
    await until(() => asked === 1, 'it is being stopped')
    await first.worker.close()
    t.equal(first.worker.reports()[0]?.state, 'stopping', 'it is not said to have ended')
    isStuck = false
    await using second = await nodeWith(config, dir)
    second.worker.keepOnly([])
    await until(() => second.worker.reports().length === 0, 'it is gone')
    t.equal(asked, 2)
  },
)
