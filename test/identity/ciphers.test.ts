import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { duplexPair } from 'node:stream'
import { createSecureContext } from 'node:tls'
import t from 'tap'
import { canAes } from '../../src/core/identity/aes.ts'
import { cipherName, listFor, ruleOf } from '../../src/core/identity/ciphers.ts'
import type { Identity } from '../../src/core/identity/contract.ts'
import { connect, createServer } from 'node:tls'
import { serverOptions } from '../../src/core/identity/tls.ts'
import { TestMesh } from './mesh.ts'

const XEON =
  'processor\t: 0\nflags\t\t: fpu sse2 pclmulqdq ssse3 aes avx2\n\nprocessor\t: 1\nflags\t\t: fpu pclmulqdq aes\n'
const ATOM = 'processor\t: 0\nflags\t\t: fpu sse2 ssse3\n'
/** Raspberry Pi 4 (Cortex-A72 without the cryptographic extension), and 5. */
const PI4 = 'processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n'
const PI5 = 'processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics\n'
/** The stand-in for a processor without AES instructions. */
const MASK = '~0x200000200000000'

t.test('whether the processor has AES instructions', async (t) => {
  const rows = [
    { why: 'a server', arch: 'x64', cpuinfo: XEON, has: true },
    { why: 'an old Atom', arch: 'x64', cpuinfo: ATOM, has: false },
    { why: 'one processor of two has none', arch: 'x64', cpuinfo: XEON + ATOM, has: false },
    { why: 'a Raspberry Pi 4', arch: 'arm64', cpuinfo: PI4, has: false },
    { why: 'a Raspberry Pi 5', arch: 'arm64', cpuinfo: PI5, has: true },
    { why: 'AES without multiplication', arch: 'arm64', cpuinfo: PI5.replace('pmull ', ''), has: false },
    { why: 'a word that only begins so', arch: 'arm64', cpuinfo: PI4.replace('crc32', 'aes2 pmull'), has: false },
    { why: 'no /proc', arch: 'arm64', cpuinfo: '', has: true },
    { why: 'an emulated arm64 that shows the host', arch: 'arm64', cpuinfo: ATOM, has: true },
    { why: 'another architecture', arch: 's390x', cpuinfo: PI4, has: true },
    { why: 'OpenSSL must not', arch: 'x64', cpuinfo: XEON, environment: { OPENSSL_ia32cap: MASK }, has: false },
    {
      why: 'OpenSSL must not, further words',
      arch: 'x64',
      cpuinfo: XEON,
      environment: { OPENSSL_ia32cap: `${MASK}:~0x20` },
      has: false,
    },
    {
      why: 'OpenSSL must not multiply',
      arch: 'x64',
      cpuinfo: XEON,
      environment: { OPENSSL_ia32cap: '~0x200000000' },
      has: false,
    },
    {
      why: 'OpenSSL must not use AVX',
      arch: 'x64',
      cpuinfo: XEON,
      environment: { OPENSSL_ia32cap: '~0x1000000000000000' },
      has: true,
    },
    {
      why: 'only later words',
      arch: 'x64',
      cpuinfo: XEON,
      environment: { OPENSSL_ia32cap: ':~0xffffffff' },
      has: true,
    },
    { why: 'OpenSSL may use nothing', arch: 'x64', cpuinfo: XEON, environment: { OPENSSL_ia32cap: '0' }, has: false },
    {
      why: 'OpenSSL may use it',
      arch: 'x64',
      cpuinfo: XEON,
      environment: { OPENSSL_ia32cap: '0x0200000200000000' },
      has: true,
    },
    {
      why: 'a mask does not make what is not there',
      arch: 'x64',
      cpuinfo: ATOM,
      environment: { OPENSSL_ia32cap: '0x0200000200000000' },
      has: false,
    },
    { why: 'not a number', arch: 'x64', cpuinfo: XEON, environment: { OPENSSL_ia32cap: 'none' }, has: true },
    {
      why: 'the variable of the other architecture',
      arch: 'arm64',
      cpuinfo: PI5,
      environment: { OPENSSL_ia32cap: MASK },
      has: true,
    },
    {
      why: 'OpenSSL on arm64 must not',
      arch: 'arm64',
      cpuinfo: PI5,
      environment: { OPENSSL_armcap: '0x1' },
      has: false,
    },
  ]
  for (const { why, environment = {}, has, ...processor } of rows)
    t.equal(canAes({ ...processor, environment }), has, why)
})

t.test('the mask of OpenSSL changes the order, in a process of its own', async (t) => {
  const program = `const { cipherList, cipherPreference } = await import('./src/core/identity/ciphers.ts')
    console.log(cipherList().split(':')[0], cipherPreference())`
  const said = (env: NodeJS.ProcessEnv) => {
    const argv = ['--input-type=module', '-e', program]
    return spawnSync(process.execPath, argv, { env: { ...process.env, ...env }, encoding: 'utf8' }).stdout.trim()
  }
  const masked = { x64: { OPENSSL_ia32cap: MASK }, arm64: { OPENSSL_armcap: '0x1' } }[process.arch as 'x64' | 'arm64']
  t.equal(said(masked), 'TLS_CHACHA20_POLY1305_SHA256 ChaCha20-Poly1305 first, no AES instructions')
  t.match(
    said({ ...masked, HEDGEROW_CIPHERS: 'aes' }),
    /^TLS_AES_128_GCM_SHA256 AES-128-GCM first, no AES instructions$/,
  )
})

t.test('the rule of the environment', async (t) => {
  t.equal(ruleOf({}, false), 'auto')
  t.equal(ruleOf({ HEDGEROW_CIPHERS: '' }, false), 'auto')
  t.equal(ruleOf({ HEDGEROW_CIPHERS: 'chacha20' }, false), 'chacha20')
  t.equal(ruleOf({}, true), 'aes', 'FIPS knows no ChaCha20')
  t.throws(() => ruleOf({ HEDGEROW_CIPHERS: 'des' }, false), { code: 'CONFIG_INVALID' })
})

t.test('names for people', async (t) => {
  t.equal(cipherName('TLS_AES_128_GCM_SHA256'), 'AES-128-GCM')
  t.equal(cipherName('TLS_AES_256_GCM_SHA384'), 'AES-256-GCM')
  t.equal(cipherName('TLS_CHACHA20_POLY1305_SHA256'), 'ChaCha20-Poly1305')
})

t.test('each combination of two ends', async (t) => {
  await using mesh = await TestMesh.create()
  const edge = await mesh.cluster('edge')
  const [near, far] = [await mesh.node(edge, 'near'), await mesh.node(edge, 'far')]
  const ends = {
    AES: listFor('auto', true),
    'no AES': listFor('auto', false),
    'AES only': listFor('aes', true),
    'AES only, without instructions': listFor('aes', false),
    'ChaCha20 only': listFor('chacha20', true),
    /** What clients offered before there was a choice: the order of Node. */
    'earlier version': 'TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256',
  } as const
  const [aes, chacha] = ['AES-128-GCM', 'ChaCha20-Poly1305']
  const rows: { dialler: keyof typeof ends; acceptor: keyof typeof ends; used: string | undefined }[] = [
    { dialler: 'AES', acceptor: 'AES', used: aes },
    { dialler: 'no AES', acceptor: 'AES', used: chacha },
    { dialler: 'AES', acceptor: 'no AES', used: chacha },
    { dialler: 'no AES', acceptor: 'no AES', used: chacha },
    { dialler: 'no AES', acceptor: 'AES only', used: aes },
    { dialler: 'AES only', acceptor: 'no AES', used: aes },
    { dialler: 'AES only, without instructions', acceptor: 'no AES', used: aes },
    { dialler: 'AES', acceptor: 'ChaCha20 only', used: chacha },
    { dialler: 'ChaCha20 only', acceptor: 'AES', used: chacha },
    { dialler: 'ChaCha20 only', acceptor: 'AES only', used: undefined },
    { dialler: 'earlier version', acceptor: 'AES', used: aes },
    { dialler: 'earlier version', acceptor: 'no AES', used: chacha },
  ]
  for (const { dialler, acceptor, used } of rows) {
    const agreed = await agreedBy({ near, far }, ends[dialler], ends[acceptor])
    t.equal(agreed, used, `${dialler} dials ${acceptor}: ${used ?? 'no connection'}`)
  }
})

/** The cipher two ends take, or nothing when they have none in common. The acceptor is as every server of ours but for its list. */
async function agreedBy(
  { near, far }: { near: Identity; far: Identity },
  offered: string,
  accepted: string,
): Promise<string | undefined> {
  const server = createServer({ ...serverOptions(far, { requestClient: true }), ciphers: accepted })
  server.on('tlsClientError', () => undefined)
  const [here, there] = duplexPair()
  server.emit('connection', there)
  const { key, chain: cert, ca } = near
  const secureContext = createSecureContext({ key, cert, ca, minVersion: 'TLSv1.3', ciphers: offered })
  const socket = connect({ socket: here, secureContext, checkServerIdentity: () => undefined })
  try {
    await once(socket, 'secureConnect')
    return cipherName(socket.getCipher().standardName)
  } catch {
    return undefined
  } finally {
    socket.destroy()
  }
}
