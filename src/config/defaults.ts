import type { Config } from './schema.ts'

/** `hostName` becomes the name of the node and of the relay. */
export function defaults(hostName: string): Config {
  const name = hostName
    .toLowerCase()
    .split('.')[0]
    ?.replace(/[^a-z0-9-]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 63)
  const host = name === undefined || name === '' ? 'node' : name
  const relayLimits = {
    connections: 8_192,
    connectionsPerNode: 256,
    mbitPerSecondPerNode: 2_000,
    handshakesPerSecond: 400,
  }
  return {
    log: 'info',
    root: {
      listen: '127.0.0.1:7470',
      opsListen: '127.0.0.1:7480',
      vipRestSeconds: 3600,
      clusterLostSeconds: 30,
      strategies: [],
      oidc: {
        issuer: 'off',
        clientId: 'hedgerow',
        scopes: ['openid', 'profile', 'email'],
        userClaim: 'preferred_username',
        groupsClaim: 'groups',
        users: 'matched',
        roles: [],
      },
    },
    cluster: { name: 'edge', listen: '127.0.0.1:7471', opsListen: '127.0.0.1:7481', relayLimits, strategies: [] },
    relay: { name: host, listen: '0.0.0.0:443', opsListen: '127.0.0.1:7483', limits: relayLimits },
    agent: {
      name: host,
      listen: '0.0.0.0:7472',
      advertise: [],
      paths: 'any',
      portMapping: 'off',
      udp: true,
      earlyData: true,
      mode: 'loopback',
      interceptInterfaces: [],
      keepInstances: false,
      instanceUsers: 'auto',
      instanceUids: '60578-61183',
      containers: {
        engine: 'auto',
        privileged: false,
        subnet: 'auto',
        ipv6: 'auto',
        hostPorts: '1024-65535',
        hostPaths: [],
        keepImagesHours: 24,
      },
      fastPath: false,
      prefix: 'auto',
      zones: ['local', 'internal'],
      resolver: { port: 0, upstreams: [], ttlSeconds: 5, negativeTtlSeconds: 2 },
      socksPort: 0,
      httpPort: 0,
      gateway: { ports: [], connections: 10_000, connectionsPerClient: 512 },
      maxFlows: 50_000,
      udpIdleSeconds: 60,
      tracing: { endpoint: 'off', ratio: 0.01, headers: {} },
      flowLog: { endpoint: 'off', headers: {}, tls: {} },
      labels: {},
      drainSeconds: 5,
      handoverSeconds: 300,
      successorSeconds: 2,
    },
  }
}
