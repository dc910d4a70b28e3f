/* Written by .config/docs/api-types.ts from the document of the API. 9baee976eb588d5800f08ace7fb90a067cf5c2a42f765677c4a5806dcabf82e1 */

export interface paths {
  '/v1/apps': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Apps */
    get: operations['listApps']
    put?: never
    /** Applies an SLA document, or says what it would change */
    post: operations['apply']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/services': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Services, with what is wanted and what runs of each */
    get: operations['listServices']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/services/{name}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** One service, with its document */
    get: operations['getService']
    put?: never
    post?: never
    /** Deletes a service and its instances */
    delete: operations['deleteService']
    options?: never
    head?: never
    /** Changes how many instances are wanted */
    patch: operations['scaleService']
    trace?: never
  }
  '/v1/instances': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Instances, and where they run */
    get: operations['listInstances']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/instances/{name}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** One instance */
    get: operations['getInstance']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/runs': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Runs of jobs, the last 20 of each instance */
    get: operations['listRuns']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/nodes': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Nodes, and what is free on them */
    get: operations['listNodes']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/nodes/{cluster}/{node}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** One node */
    get: operations['getNode']
    put?: never
    post?: never
    /** Revokes the certificates of a node */
    delete: operations['deleteNode']
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/clusters': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Clusters, and what is free in them */
    get: operations['listClusters']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/relays': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Relays of the clusters that answer */
    get: operations['listRelays']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/links': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** How nodes that have a session reach each other now; of very many those that carried most */
    get: operations['listLinks']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/events': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** What happened, the newest first */
    get: operations['listEvents']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/status': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** The root itself */
    get: operations['getStatus']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/apps/{name}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    post?: never
    /** Deletes an app and its services */
    delete: operations['deleteApp']
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/services/{name}/revisions': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** What was applied of a service, the last ten */
    get: operations['listRevisions']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/services/{name}/rollback': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Applies an earlier revision again */
    post: operations['rollBack']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/services/{name}/run': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Runs a job now */
    post: operations['runJob']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/services/{name}/explain': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Where a further instance would go, and why */
    get: operations['explainService']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/instances/{name}/explain': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Why an instance is where it is */
    get: operations['explainInstance']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/instances/{name}/logs': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** What an instance wrote, as lines */
    get: operations['readLogs']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/instances/{name}/migrate': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Moves an instance to another node */
    post: operations['migrateInstance']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/instances/{name}/restart': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Replaces the run of an instance by another on the same node */
    post: operations['restartInstance']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/nodes/{cluster}/{node}/cordon': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Nothing new is placed on the node */
    post: operations['cordonNode']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/nodes/{cluster}/{node}/uncordon': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** The node takes instances again */
    post: operations['uncordonNode']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/nodes/{cluster}/{node}/drain': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** What is left on a node that drains */
    get: operations['drainStatus']
    put?: never
    /** What runs on the node moves away */
    post: operations['drainNode']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/relays/{cluster}/{relay}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    post?: never
    /** Revokes the certificates of a relay */
    delete: operations['deleteRelay']
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/clusters/{name}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    post?: never
    /** Revokes the certificates of a cluster, and of all that it has signed */
    delete: operations['deleteCluster']
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/secrets': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Secrets, without their values */
    get: operations['listSecrets']
    put?: never
    /** Keeps a secret, sealed */
    post: operations['putSecret']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/secrets/{name}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    post?: never
    /** Deletes a secret that no service has */
    delete: operations['deleteSecret']
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/join-tokens': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Makes a token with which one node, relay or cluster joins */
    post: operations['createJoinToken']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/volumes': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Volumes of the nodes that answer */
    get: operations['listVolumes']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/volumes/{name}/{cluster}/{node}/{runtime}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    post?: never
    /** Deletes a volume that no instance uses, with all that is in it */
    delete: operations['deleteVolume']
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/authority': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** The certificate authority, and how far its rotation is */
    get: operations['getAuthority']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/authority/rotate': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Makes a new authority, which signs as soon as every member trusts it */
    post: operations['rotateAuthority']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/authority/retire': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Drops the authority that was replaced */
    post: operations['retireAuthority']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/instances/{name}/exec': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Begins a command in an instance; who does not ask for its output within 15 s ends it */
    post: operations['beginExec']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/exec/{exec}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** What the command prints, to its exit code; who ends this request ends the command */
    get: operations['readExec']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/exec/{exec}/input': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Part of what the command reads; answered when it has taken that */
    post: operations['writeExec']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/watch': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** What changes, as server-sent events; first all there is. `Last-Event-ID` goes on where a stream broke */
    get: operations['watch']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/events/stream': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** What happens from now on, as server-sent events. `Last-Event-ID` goes on behind the event of that number */
    get: operations['followEvents']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/organisations': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Organisations, what is theirs, and their quotas */
    get: operations['listOrganisations']
    put?: never
    /** Creates an organisation */
    post: operations['createOrganisation']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/organisations/{name}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    post?: never
    /** Deletes an organisation that has no apps, users and clusters */
    delete: operations['deleteOrganisation']
    options?: never
    head?: never
    /** Changes the namespaces or the quota of an organisation */
    patch: operations['changeOrganisation']
    trace?: never
  }
  '/v1/users': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Users of the organisations whose administrator asks, and oneself */
    get: operations['listUsers']
    put?: never
    /** Creates a user */
    post: operations['createUser']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/users/{name}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    post?: never
    /** Deletes a user with its tokens, and ends its sessions */
    delete: operations['deleteUser']
    options?: never
    head?: never
    /** Gives a user roles, and takes them */
    patch: operations['changeUser']
    trace?: never
  }
  '/v1/users/{name}/password': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    /** Gives a user another password, and ends its sessions */
    put: operations['setPassword']
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/services/{name}/connections/{called}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    /** Says that a service calls another, how near it must be, and whether it is let in */
    put: operations['connect']
    post?: never
    /** Says that a service no longer calls another */
    delete: operations['disconnect']
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/login': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** How people log in here, beside name and password */
    get: operations['getLoginWays']
    put?: never
    /** Begins a session by name and password: as a token, or as a cookie for a browser */
    post: operations['login']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/logout': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Ends the session with which it is asked */
    post: operations['logout']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/me': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Who asks, and what it may */
    get: operations['whoami']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/api-tokens': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** API tokens and sessions: one’s own, and those of users about whom one decides */
    get: operations['listApiTokens']
    put?: never
    /** Creates an API token of one’s own; its text is answered this once */
    post: operations['createApiToken']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/api-tokens/{id}': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    post?: never
    /** Revokes an API token, or ends a session; what it has open is cut */
    delete: operations['revokeApiToken']
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/login/oidc': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Begins a login by the identity provider, for a program that listens on 127.0.0.1 */
    post: operations['beginOidcLogin']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/login/oidc/finish': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    put?: never
    /** Ends a login by the identity provider with a session */
    post: operations['finishOidcLogin']
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/cluster-owners': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Whose clusters are, and who may place on them; of those that one operates */
    get: operations['listClusterOwners']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/clusters/{name}/owner': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    /** Gives a cluster to an organisation, or to nobody */
    put: operations['setClusterOwner']
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/clusters/{name}/admits': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    get?: never
    /** Says which organisations may place on a cluster */
    put: operations['setClusterAdmits']
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
  '/v1/audit': {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    /** Who did what, and from where; the newest first */
    get: operations['listAudit']
    put?: never
    post?: never
    delete?: never
    options?: never
    head?: never
    patch?: never
    trace?: never
  }
}
export type webhooks = Record<string, never>
export interface components {
  schemas: {
    App: {
      /** @description `app.namespace` */
      id: string
      description: string
      customer: string
      services: number
      instances: number
      running: number
    }
    Applied: {
      apps: string[]
      warnings: components['schemas']['Fault'][]
      /** @constant */
      dryRun?: true
      services: {
        id: string
        /** @enum {unknown} */
        change: 'created' | 'updated' | 'unchanged' | 'removed'
        /** @description Why it does not answer while it is updated. */
        gap?: string
        /** @description Of a dry run: keys that have another value. */
        fields?: string[]
        /** @description Of a dry run: what they were and what they would be, with every default filled in. */
        differences?: {
          keys: string[]
          before?: unknown
          after?: unknown
        }[]
        /** @description Of a dry run. */
        instances?: {
          added: number
          replaced: number
          changedInPlace: number
          removed: number
        }
        /** @description Of a dry run: where the first new instances would go, or why nowhere. */
        places?: {
          instance: string
          place?: string
          reason?: string
        }[]
      }[]
    }
    Authority: {
      /** @enum {unknown} */
      step: 'steady' | 'spreading' | 'issuing'
      /** @description The authority that signs certificates, by its id. */
      signs: string
      /** @description While the step is `spreading`: the one that will sign. */
      next?: string
      /** @description While the step is `issuing`: the one that signed before, and is still trusted. */
      replaced?: string
      members: number
      /** @description Who keeps the rotation from its next step. */
      behind: {
        id: string
        /** @enum {unknown} */
        role: 'cluster' | 'node' | 'relay'
        isLive: boolean
      }[]
    }
    Capacity: {
      memoryMb: number
      vcpus: number
      vgpus: number
      vtpus: number
      storageMb: number
      bandwidthInKbit?: number
      bandwidthOutKbit?: number
    }
    Cluster: {
      name: string
      /** @enum {unknown} */
      condition: 'alive' | 'away' | 'lost'
      enrolledAt: number
      nodes: number
      instances: number
      url?: string
      version?: string
      free?: {
        memoryMb: number
        vcpus: number
        vgpus: number
        vtpus: number
        storageMb: number
        bandwidthInKbit?: number
        bandwidthOutKbit?: number
      }
      total?: {
        memoryMb: number
        vcpus: number
        vgpus: number
        vtpus: number
        storageMb: number
        bandwidthInKbit?: number
        bandwidthOutKbit?: number
      }
      /** @description Of one that does not answer. */
      asOf?: number
      /** @description When its certificate ends. */
      certificateUntil?: number
    }
    DrainStatus: {
      isDraining: boolean
      left: {
        instance: string
        /** @enum {unknown} */
        state: 'moving' | 'waiting' | 'stays'
        to?: string
        why?: string
      }[]
      leaving: number
    }
    Event: {
      /** @description Grows with every event. */
      number: number
      at: number
      /** @enum {unknown} */
      what:
        | 'applied'
        | 'scaled'
        | 'waiting'
        | 'placed'
        | 'moved'
        | 'due'
        | 'skipped'
        | 'refused'
        | 'unplaceable'
        | 'started'
        | 'ready'
        | 'unready'
        | 'restarted'
        | 'failed'
        | 'finished'
        | 'lost'
        | 'violated'
        | 'kept'
        | 'updated'
        | 'stuck'
        | 'rolled-back'
        | 'cordoned'
        | 'uncordoned'
        | 'draining'
        | 'drained'
        | 'joined'
        | 'connected'
        | 'entered'
        | 'deleted'
      service?: string
      instance?: string
      node?: string
      cluster?: string
      /** @enum {unknown} */
      by: 'user' | 'reconciler' | 'cluster' | 'worker'
      why?: string
    }
    Explanation: {
      service: string
      instance?: string
      /** @enum {unknown} */
      state?:
        | 'requested'
        | 'placed'
        | 'starting'
        | 'running'
        | 'lost'
        | 'stopping'
        | 'stopped'
        | 'failed'
        | 'unplaceable'
      node?: string
      detail?: string
      root: components['schemas']['TierExplanation']
      /** @description Which node: of the cluster that has the instance, else of every cluster that is linked. */
      clusters: {
        cluster: string
        nodes?: {
          strategy: string
          filters: string[]
          terms: string[]
          candidates: number
          fit: number
          judged: {
            id: string
            refusals: {
              [key: string]: string
            }
            score?: number[]
          }[]
          chosen?: string
          why?: string
          at?: number
        }
        /** @description Why it does not say. */
        unknown?: string
      }[]
    }
    Fault: {
      path: string
      problem: string
      remedy?: string
    }
    Instance: {
      /** @description Its service and its number. */
      id: string
      service: string
      ordinal: number
      /** @description False: it is being withdrawn. */
      wanted: boolean
      /** @enum {unknown} */
      state:
        | 'requested'
        | 'placed'
        | 'starting'
        | 'running'
        | 'lost'
        | 'stopping'
        | 'stopped'
        | 'failed'
        | 'unplaceable'
      /**
       * @description Of a job that does not run.
       * @enum {unknown}
       */
      outcome?: 'idle' | 'succeeded' | 'failed'
      /** @description What is to be said of it, for people. */
      detail?: string
      /** @description `cluster/node` */
      node?: string
      cluster?: string
      restarts: number
      generation: number
      revision?: number
      epoch?: number
      changedAt: number
      /** @description When it is started again. */
      retryAt?: number
      /** @description Of a job with a schedule. */
      nextRunAt?: number
      unsuited?: string
      /** @constant */
      noOtherNode?: true
      /** @description The constraint that it does not keep to. */
      violation?: string
      /** @description Why its update waits. */
      waits?: string
      /** @description Why it had to be stopped before its newer run could start. */
      gap?: string
      /** @description Other nodes with a run of it. */
      also?: string[]
      /** @description Lost nodes that may still run it. */
      mayAlsoRunOn?: string[]
      /** @description Ports of its node on which it is reached from outside the mesh: `8080/tcp`. */
      hostPorts?: string[]
      successor?: {
        generation: number
        epoch?: number
        /** @enum {unknown} */
        state:
          | 'requested'
          | 'placed'
          | 'starting'
          | 'running'
          | 'lost'
          | 'stopping'
          | 'stopped'
          | 'failed'
          | 'unplaceable'
        detail?: string
        restarts: number
        node?: string
      }
      usage?: {
        instance: string
        /** @description CPUs, as an average. */
        cpu: number
        memoryMb: number
        memoryLimitMb?: number
        vcpuLimit?: number
        /** @description The share of the time in which it waited for its limit. */
        throttled: number
        oomKills: number
      }
    }
    Link: {
      /** @description Both nodes. */
      id: string
      /** @description `cluster/node` */
      from: string
      /** @description `cluster/node` */
      to: string
      /** @enum {unknown} */
      path: 'direct' | 'reverse' | 'punched' | 'relayed'
      /** @description The address of the relay, on a relayed path. */
      relay?: string
      /** @description Round-trip time. */
      rttMs?: number
      /** @description What `from` received of `to` since their session began; for those who operate both. */
      bytesIn?: number
      /** @description What it sent. */
      bytesOut?: number
    }
    Moved: {
      instance: string
      from?: string
      node?: string
      epoch: number
      /** @description Why it is stopped first. */
      gap?: string
      /** @description What stays where it was. */
      keeps?: string
    }
    Node: {
      /** @description `cluster/node` */
      id: string
      /**
       * @description `away`: its cluster does not answer.
       * @enum {unknown}
       */
      condition: 'alive' | 'lost' | 'away'
      instances: number
      since: number
      runtimes: string[]
      addresses: string[]
      arch?: string
      labels: {
        [key: string]: string
      }
      area?: string
      location?: {
        lat: number
        lon: number
      }
      /** @description Its place in the network, in milliseconds: the distance of two, and both heights, is the round-trip time. */
      coordinate?: {
        at: number[]
        height: number
        error: number
      }
      version?: string
      capacity?: {
        memoryMb: number
        vcpus: number
        vgpus: number
        vtpus: number
        storageMb: number
        bandwidthInKbit?: number
        bandwidthOutKbit?: number
      }
      freeMemoryMb?: number
      freeVcpus?: number
      /** @description Of one that is `away`: when its cluster said so. */
      asOf?: number
      ageSeconds?: number
      /** @description How long ago its last message came. */
      silentMs?: number
      /** @description How often its link went down lately. */
      linksLost?: number
      /** @description For how long it gets only what no other node takes. */
      dampedMs?: number
      cordon?: {
        at: number
        reason?: string
        drain?: {
          /** @constant */
          isForced?: true
        }
      }
      /** @description When a second process with its identity was refused last. */
      duplicateAt?: number
      /** @description When its certificate ends. */
      certificateUntil?: number
      /** @description Instances that were placed elsewhere since it is lost. */
      mayStillRun?: string[]
      trust?: {
        trusts: string[]
        presents?: string
      }
    }
    /** @description RFC 9457. */
    Problem: {
      /** @description `urn:hedgerow:error:` and the code. */
      type: string
      /** @description What is wrong, the same for every problem of this type. */
      title: string
      status: number
      /** @description What is wrong here, in one sentence. */
      detail: string
      /** @description Of docs/errors.md. */
      code: string
      /** @description As in the logs of the root. */
      requestId?: string
      /** @description What to do about it. */
      remedy?: string
      /** @description Each with its path, where there are several. */
      faults?: unknown[]
      warnings?: unknown[]
      details?: {
        [key: string]: unknown
      }
    }
    Relay: {
      id: string
      /** @enum {unknown} */
      kind: 'cluster' | 'stand-alone'
      url?: string
      /** @enum {unknown} */
      condition: 'alive' | 'away'
      version?: string
      /** @description Nodes that listen at it now. */
      nodes: number
      /** @description When its certificate ends. */
      certificateUntil?: number
      trust?: {
        trusts: string[]
        presents?: string
      }
    }
    Revision: {
      number: number
      generation: number
      at: number
      spec: {
        id: string
        app: string
        appNamespace: string
        name: string
        namespace: string
        runtime: string
        code: string
        cmd: string[]
        environment: string[]
        workdir?: string
        ports: {
          port: number
          target: number
          /** @enum {unknown} */
          protocol: 'tcp' | 'udp'
          name?: string
          /** @constant */
          proxyProtocol?: 'v2'
          hostPort?: number
        }[]
        fixedPorts: boolean
        /** @enum {unknown} */
        proxy?: 'socks' | 'none'
        openFiles?: number
        secrets?: string[]
        /** @constant */
        isolation?: 'none'
        files?: {
          path: string
          content?: string
          secret?: string
        }[]
        volumes?: {
          name: string
          path: string
          /** @constant */
          readOnly?: true
          hostPath?: string
        }[]
        registrySecret?: string
        /** @constant */
        egress?: 'none'
        egressTo?: string[]
        memoryMb: number
        vcpus: number
        vgpus: number
        vtpus: number
        storageMb: number
        bandwidthInKbit: number
        bandwidthOutKbit: number
        arch: string[]
        replicas: number
        oneShot: boolean
        job?: {
          retries?: number
          backoffSeconds?: number
          deadlineSeconds?: number
        }
        schedule?: {
          cron: string
          /** @enum {unknown} */
          concurrency?: 'replace' | 'allow'
          startWithinSeconds?: number
        }
        strategy: string
        allow: string[]
        paths?: string
        check?: {
          /** @enum {unknown} */
          kind: 'tcp' | 'http'
          port: number
          path: string
          intervalMs: number
          timeoutMs: number
        }
        liveness?: {
          /** @enum {unknown} */
          kind: 'tcp' | 'http'
          port: number
          path: string
          intervalMs: number
          timeoutMs: number
          initialDelayMs: number
          failures: number
        }
        drainSeconds: number
        leaseSeconds?: number
        update?: {
          maxSurge?: number
          maxSurgePercent?: number
          maxUnavailable?: number
          maxUnavailablePercent?: number
          progressSeconds?: number
          /** @constant */
          autoRollback?: true
        }
        constraints: {
          /** @enum {unknown} */
          type: 'direct' | 'clusters' | 'addons' | 'labels' | 'latency' | 'geo' | 'anti-affinity' | 'spread'
          cluster?: string
          nodes?: string[]
          allowed?: string[]
          needs?: string[]
          match?: {
            key: string
            /** @enum {unknown} */
            operator: 'in' | 'not-in' | 'exists' | 'absent'
            values: string[]
          }[]
          /** @enum {unknown} */
          over?: 'node' | 'area' | 'cluster'
          maxSkew?: number
          area?: string
          location?: {
            lat: number
            lon: number
          }
          service?: string
          threshold?: number
          rigidness?: number
          convergenceSeconds?: number
        }[]
        prefersNear?: {
          /** @constant */
          type: 'latency'
          service: string
          threshold: number
        }[]
        connectivity: string[]
        /** @constant */
        startsAfterConnectivity?: true
        addresses: {
          [key: string]: string
        }
      }
      rollbackTo?: number
      /** @constant */
      isAutomatic?: true
      /**
       * @description Every instance ran it.
       * @constant
       */
      isComplete?: true
    }
    Run: {
      /** @description Of the instance. */
      id: string
      number: number
      generation: number
      epoch: number
      /** @enum {unknown} */
      by: 'document' | 'schedule' | 'user'
      /** @description By its schedule. */
      due?: number
      at: number
      /** @description When it ended. */
      endedAt?: number
      /** @enum {unknown} */
      state: 'running' | 'succeeded' | 'failed' | 'replaced'
      tries: number
      node?: string
      detail?: string
    }
    Secret: {
      /** @description `app.namespace.name` */
      name: string
      bytes: number
      createdAt: number
      changedAt: number
      /** @description Services. */
      usedBy: string[]
    }
    Service: {
      /** @description `app.namespace.service.namespace` */
      id: string
      ports: {
        port: number
        target: number
        /** @enum {unknown} */
        protocol: 'tcp' | 'udp'
        name?: string
        /** @constant */
        proxyProtocol?: 'v2'
        hostPort?: number
      }[]
      runtime: string
      /** @description Instances that are wanted. */
      replicas: number
      /** @description Instances that are ready. */
      running: number
      /** @description What is to be said of it, for people. */
      detail?: string
      /** @description How far its roll-out is, for people; absent when there is none. */
      update?: string
      /** @description When the next of its instances is started again. */
      retryAt?: number
      /** @constant */
      oneShot?: true
      schedule?: string
      /** @description Of a job with a schedule. */
      nextRunAt?: number
      generation: number
      strategy: string
      allow: string[]
      /** @description The services that its document says it calls; absent when there are none. */
      calls?: {
        /** @description `app.namespace.service.namespace`, or without the last one. */
        service: string
        /** @description The greatest round trip that it asks for. */
        latencyMs?: number
      }[]
      /** @description The number of the VIP of each choice. */
      vips: {
        [key: string]: number
      }
    }
    Status: {
      mesh: string
      version: string
      authority: string
      authorityStep: string
      url: string
      upSeconds: number
      /** @description Those whose link is up. */
      clusters: string[]
      apps: number
      services: number
      /** @description How many are in each state. */
      instances: {
        [key: string]: number
      }
      vipsUsed: number
    }
    TierExplanation: {
      strategy: string
      filters: string[]
      terms: string[]
      candidates: number
      fit: number
      judged: {
        id: string
        refusals: {
          [key: string]: string
        }
        score?: number[]
      }[]
      chosen?: string
      why?: string
      at?: number
    }
    Usage: {
      instance: string
      /** @description CPUs, as an average. */
      cpu: number
      memoryMb: number
      memoryLimitMb?: number
      vcpuLimit?: number
      /** @description The share of the time in which it waited for its limit. */
      throttled: number
      oomKills: number
    }
  }
  responses: never
  parameters: never
  requestBodies: never
  headers: never
  pathItems: never
}
export type $defs = Record<string, never>
export interface operations {
  listApps: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins with this. */
        name?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Apps */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['App'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  apply: {
    parameters: {
      query?: {
        /** @description Changes nothing. */
        dryRun?: boolean
        /** @description Services of its apps that it does not name are deleted. */
        prune?: boolean
      }
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': unknown
      }
    }
    responses: {
      /** @description Applies an SLA document, or says what it would change */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Applied']
        }
      }
    }
  }
  listServices: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins with this. */
        name?: string
        /** @description Only those of this runtime. */
        runtime?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Services, with what is wanted and what runs of each */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Service'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  getService: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description `app.namespace.service.namespace` */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description One service, with its document */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            /** @description `app.namespace.service.namespace` */
            id: string
            ports: {
              port: number
              target: number
              /** @enum {unknown} */
              protocol: 'tcp' | 'udp'
              name?: string
              /** @constant */
              proxyProtocol?: 'v2'
              hostPort?: number
            }[]
            runtime: string
            /** @description Instances that are wanted. */
            replicas: number
            /** @description Instances that are ready. */
            running: number
            /** @description What is to be said of it, for people. */
            detail?: string
            /** @description How far its roll-out is, for people; absent when there is none. */
            update?: string
            /** @description When the next of its instances is started again. */
            retryAt?: number
            /** @constant */
            oneShot?: true
            schedule?: string
            /** @description Of a job with a schedule. */
            nextRunAt?: number
            generation: number
            strategy: string
            allow: string[]
            /** @description The services that its document says it calls; absent when there are none. */
            calls?: {
              /** @description `app.namespace.service.namespace`, or without the last one. */
              service: string
              /** @description The greatest round trip that it asks for. */
              latencyMs?: number
            }[]
            /** @description The number of the VIP of each choice. */
            vips: {
              [key: string]: number
            }
            spec: {
              id: string
              app: string
              appNamespace: string
              name: string
              namespace: string
              runtime: string
              code: string
              cmd: string[]
              environment: string[]
              workdir?: string
              ports: {
                port: number
                target: number
                /** @enum {unknown} */
                protocol: 'tcp' | 'udp'
                name?: string
                /** @constant */
                proxyProtocol?: 'v2'
                hostPort?: number
              }[]
              fixedPorts: boolean
              /** @enum {unknown} */
              proxy?: 'socks' | 'none'
              openFiles?: number
              secrets?: string[]
              /** @constant */
              isolation?: 'none'
              files?: {
                path: string
                content?: string
                secret?: string
              }[]
              volumes?: {
                name: string
                path: string
                /** @constant */
                readOnly?: true
                hostPath?: string
              }[]
              registrySecret?: string
              /** @constant */
              egress?: 'none'
              egressTo?: string[]
              memoryMb: number
              vcpus: number
              vgpus: number
              vtpus: number
              storageMb: number
              bandwidthInKbit: number
              bandwidthOutKbit: number
              arch: string[]
              replicas: number
              oneShot: boolean
              job?: {
                retries?: number
                backoffSeconds?: number
                deadlineSeconds?: number
              }
              schedule?: {
                cron: string
                /** @enum {unknown} */
                concurrency?: 'replace' | 'allow'
                startWithinSeconds?: number
              }
              strategy: string
              allow: string[]
              paths?: string
              check?: {
                /** @enum {unknown} */
                kind: 'tcp' | 'http'
                port: number
                path: string
                intervalMs: number
                timeoutMs: number
              }
              liveness?: {
                /** @enum {unknown} */
                kind: 'tcp' | 'http'
                port: number
                path: string
                intervalMs: number
                timeoutMs: number
                initialDelayMs: number
                failures: number
              }
              drainSeconds: number
              leaseSeconds?: number
              update?: {
                maxSurge?: number
                maxSurgePercent?: number
                maxUnavailable?: number
                maxUnavailablePercent?: number
                progressSeconds?: number
                /** @constant */
                autoRollback?: true
              }
              constraints: {
                /** @enum {unknown} */
                type: 'direct' | 'clusters' | 'addons' | 'labels' | 'latency' | 'geo' | 'anti-affinity' | 'spread'
                cluster?: string
                nodes?: string[]
                allowed?: string[]
                needs?: string[]
                match?: {
                  key: string
                  /** @enum {unknown} */
                  operator: 'in' | 'not-in' | 'exists' | 'absent'
                  values: string[]
                }[]
                /** @enum {unknown} */
                over?: 'node' | 'area' | 'cluster'
                maxSkew?: number
                area?: string
                location?: {
                  lat: number
                  lon: number
                }
                service?: string
                threshold?: number
                rigidness?: number
                convergenceSeconds?: number
              }[]
              prefersNear?: {
                /** @constant */
                type: 'latency'
                service: string
                threshold: number
              }[]
              connectivity: string[]
              /** @constant */
              startsAfterConnectivity?: true
              addresses: {
                [key: string]: string
              }
            }
          }
        }
      }
    }
  }
  deleteService: {
    parameters: {
      query?: never
      header?: {
        /** @description Only while the service is as it was read, by its `etag`. */
        'if-match'?: string
      }
      path: {
        /** @description `app.namespace.service.namespace` */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Deletes a service and its instances */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  scaleService: {
    parameters: {
      query?: never
      header?: {
        /** @description Only while the service is as it was read, by its `etag`. */
        'if-match'?: string
      }
      path: {
        /** @description `app.namespace.service.namespace` */
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          replicas: number
        }
      }
    }
    responses: {
      /** @description Changes how many instances are wanted */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            id: string
            replicas: number
          }
        }
      }
    }
  }
  listInstances: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins with this. */
        name?: string
        /** @description Only those of this service. */
        service?: string
        /** @description Only those on this node, `cluster/node`. */
        node?: string
        /** @description Only those of this cluster. */
        cluster?: string
        state?:
          | 'requested'
          | 'placed'
          | 'starting'
          | 'running'
          | 'lost'
          | 'stopping'
          | 'stopped'
          | 'failed'
          | 'unplaceable'
        /** @description Asks the clusters what each uses now. */
        usage?: boolean
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Instances, and where they run */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Instance'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  getInstance: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description The service and the number of the instance. */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description One instance */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Instance']
        }
      }
    }
  }
  listRuns: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins with this. */
        name?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Runs of jobs, the last 20 of each instance */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Run'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  listNodes: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins with this. */
        name?: string
        /** @description Only those of this cluster. */
        cluster?: string
        /** @description `away`: its cluster does not answer. */
        condition?: 'alive' | 'lost' | 'away'
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Nodes, and what is free on them */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Node'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  getNode: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description Its cluster. */
        cluster: string
        /** @description Its name within the cluster. */
        node: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description One node */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Node']
        }
      }
    }
  }
  deleteNode: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description Its cluster. */
        cluster: string
        /** @description Its name within the cluster. */
        node: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Revokes the certificates of a node */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  listClusters: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins with this. */
        name?: string
        condition?: 'alive' | 'away' | 'lost'
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Clusters, and what is free in them */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Cluster'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  listRelays: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins with this. */
        name?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Relays of the clusters that answer */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Relay'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  listLinks: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those of nodes whose name begins with this. */
        name?: string
        path?: 'direct' | 'reverse' | 'punched' | 'relayed'
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description How nodes that have a session reach each other now; of very many those that carried most */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Link'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  listEvents: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those about this app, service, instance, node or cluster. */
        name?: string
        what?:
          | 'applied'
          | 'scaled'
          | 'waiting'
          | 'placed'
          | 'moved'
          | 'due'
          | 'skipped'
          | 'refused'
          | 'unplaceable'
          | 'started'
          | 'ready'
          | 'unready'
          | 'restarted'
          | 'failed'
          | 'finished'
          | 'lost'
          | 'violated'
          | 'kept'
          | 'updated'
          | 'stuck'
          | 'rolled-back'
          | 'cordoned'
          | 'uncordoned'
          | 'draining'
          | 'drained'
          | 'joined'
          | 'connected'
          | 'entered'
          | 'deleted'
        /** @description Not before this time, milliseconds since 1970. */
        since?: number
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description What happened, the newest first */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Event'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  getStatus: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description The root itself */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Status']
        }
      }
    }
  }
  deleteApp: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description `app.namespace` */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Deletes an app and its services */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  listRevisions: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description `app.namespace.service.namespace` */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description What was applied of a service, the last ten */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Revision'][]
          }
        }
      }
    }
  }
  rollBack: {
    parameters: {
      query?: never
      header?: {
        /** @description Only while the service is as it was read, by its `etag`. */
        'if-match'?: string
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path: {
        /** @description `app.namespace.service.namespace` */
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description The one before by default. */
          to?: number
        }
      }
    }
    responses: {
      /** @description Applies an earlier revision again */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            id: string
            revision: number
            /** @enum {unknown} */
            change: 'updated' | 'unchanged'
          }
        }
      }
    }
  }
  runJob: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path: {
        /** @description `app.namespace.service.namespace` */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Runs a job now */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            id: string
            instances: number
          }
        }
      }
    }
  }
  explainService: {
    parameters: {
      query?: {
        /** @description What would be decided now, also where the decision is kept. */
        anew?: boolean
        /** @description Candidates of each tier; 100 by default. */
        most?: number
      }
      header?: never
      path: {
        /** @description `app.namespace.service.namespace` */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Where a further instance would go, and why */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Explanation']
        }
      }
    }
  }
  explainInstance: {
    parameters: {
      query?: {
        /** @description What would be decided now, also where the decision is kept. */
        anew?: boolean
        /** @description Candidates of each tier; 100 by default. */
        most?: number
      }
      header?: never
      path: {
        /** @description The service and the number of the instance. */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Why an instance is where it is */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Explanation']
        }
      }
    }
  }
  readLogs: {
    parameters: {
      query?: {
        /** @description Lines; 100 by default. */
        tail?: number
        /** @description And what it writes from now on. */
        follow?: boolean
        /** @description Milliseconds since 1970. */
        since?: number
      }
      header?: never
      path: {
        /** @description The service and the number of the instance. */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description What an instance wrote, as lines */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'text/plain': string
        }
      }
    }
  }
  migrateInstance: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path: {
        /** @description The service and the number of the instance. */
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          to?: string
        }
      }
    }
    responses: {
      /** @description Moves an instance to another node */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Moved']
        }
      }
    }
  }
  restartInstance: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path: {
        /** @description The service and the number of the instance. */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Replaces the run of an instance by another on the same node */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Moved']
        }
      }
    }
  }
  cordonNode: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path: {
        /** @description Its cluster. */
        cluster: string
        /** @description Its name within the cluster. */
        node: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description Why; other operators are shown it. */
          reason?: string
        }
      }
    }
    responses: {
      /** @description Nothing new is placed on the node */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            /** @description False: it was so already. */
            changed: boolean
          }
        }
      }
    }
  }
  uncordonNode: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path: {
        /** @description Its cluster. */
        cluster: string
        /** @description Its name within the cluster. */
        node: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description The node takes instances again */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            /** @description False: it was so already. */
            changed: boolean
          }
        }
      }
    }
  }
  drainStatus: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description Its cluster. */
        cluster: string
        /** @description Its name within the cluster. */
        node: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description What is left on a node that drains */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['DrainStatus']
        }
      }
    }
  }
  drainNode: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path: {
        /** @description Its cluster. */
        cluster: string
        /** @description Its name within the cluster. */
        node: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          force?: boolean
          /** @description Why; other operators are shown it. */
          reason?: string
        }
      }
    }
    responses: {
      /** @description What runs on the node moves away */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['DrainStatus']
        }
      }
    }
  }
  deleteRelay: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description Its cluster. */
        cluster: string
        /** @description Its name within the cluster. */
        relay: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Revokes the certificates of a relay */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  deleteCluster: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description Of the cluster. */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Revokes the certificates of a cluster, and of all that it has signed */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  listSecrets: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins so. */
        name?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Secrets, without their values */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: components['schemas']['Secret'][]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  putSecret: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description `app.namespace.name` */
          name: string
          /** @description Base64. */
          value: string
          /** @description Also where there is one of this name. */
          replace?: boolean
        }
      }
    }
    responses: {
      /** @description Keeps a secret, sealed */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            name: string
            /** @enum {unknown} */
            result: 'created' | 'replaced'
          }
        }
      }
    }
  }
  deleteSecret: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description `app.namespace.name` */
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Deletes a secret that no service has */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  createJoinToken: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @enum {unknown} */
          role: 'node' | 'cluster' | 'relay'
          cluster?: string
          /** @description An hour by default. */
          ttlSeconds?: number
        }
      }
    }
    responses: {
      /** @description Makes a token with which one node, relay or cluster joins */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            token: string
            expiresAt: number
            /** @description What to run there, with the token in a file. */
            command: string
          }
        }
      }
    }
  }
  listVolumes: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only those whose name begins so. */
        name?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Volumes of the nodes that answer */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: {
              /** @description `<name>/<cluster>/<node>/<runtime>` */
              id: string
              /** @description `app.namespace.volume` */
              name: string
              node: string
              /**
               * @description Whose it is: of containers, or of programs.
               * @enum {unknown}
               */
              runtime: 'docker' | 'process'
              /** @description What it takes of the disk, measured every 5 minutes at most; absent: not known. */
              bytes?: number
              /** @description Instances that have it, or are about to. */
              inUseBy: string[]
            }[]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  deleteVolume: {
    parameters: {
      query?: never
      header?: never
      path: {
        name: string
        cluster: string
        node: string
        /** @description Whose it is: of containers, or of programs. */
        runtime: 'docker' | 'process'
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Deletes a volume that no instance uses, with all that is in it */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  getAuthority: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description The certificate authority, and how far its rotation is */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Authority']
        }
      }
    }
  }
  rotateAuthority: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description Also where members are not ready for it. */
          force?: boolean
        }
      }
    }
    responses: {
      /** @description Makes a new authority, which signs as soon as every member trusts it */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Authority']
        }
      }
    }
  }
  retireAuthority: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description Also where members are not ready for it. */
          force?: boolean
        }
      }
    }
    responses: {
      /** @description Drops the authority that was replaced */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Authority']
        }
      }
    }
  }
  beginExec: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description The service and the number of the instance. */
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description The program and its arguments. */
          cmd: string[]
        }
      }
    }
    responses: {
      /** @description Begins a command in an instance; who does not ask for its output within 15 s ends it */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            /** @description The number of the command. */
            exec: string
          }
        }
      }
    }
  }
  readExec: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description As the command was answered. */
        exec: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description What the command prints, to its exit code; who ends this request ends the command */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/octet-stream': string
        }
      }
    }
  }
  writeExec: {
    parameters: {
      query?: {
        /** @description That was all. */
        last?: boolean
      }
      header?: never
      path: {
        /** @description As the command was answered. */
        exec: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/octet-stream': string
      }
    }
    responses: {
      /** @description Part of what the command reads; answered when it has taken that */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': Record<string, never>
        }
      }
    }
  }
  watch: {
    parameters: {
      query?: {
        /** @description All by default. */
        kinds?: ('services' | 'instances' | 'nodes' | 'clusters' | 'events')[]
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description What changes, as server-sent events; first all there is. `Last-Event-ID` goes on where a stream broke */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'text/event-stream': string
        }
      }
    }
  }
  followEvents: {
    parameters: {
      query?: {
        /** @description Only those about this app, service, instance, node or cluster. */
        name?: string
        /** @description Not before this time, milliseconds since 1970. */
        since?: number
        /** @description Also what is remembered behind the event of this number. */
        after?: number
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description What happens from now on, as server-sent events. `Last-Event-ID` goes on behind the event of that number */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'text/event-stream': string
        }
      }
    }
  }
  listOrganisations: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Organisations, what is theirs, and their quotas */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: {
              name: string
              namespaces: string[]
              /** @description What its services may want in all; without limit where absent. */
              quota: {
                services?: number
                instances?: number
                memoryMb?: number
                vcpus?: number
              }
              wanted: {
                services: number
                instances: number
                memoryMb: number
                vcpus: number
              }
              createdAt: number
            }[]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  createOrganisation: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          name: string
          /** @description Of apps; each belongs to at most one organisation. */
          namespaces?: string[]
          /** @description What its services may want in all; without limit where absent. */
          quota?: {
            services?: number
            instances?: number
            memoryMb?: number
            vcpus?: number
          }
        }
      }
    }
    responses: {
      /** @description Creates an organisation */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            name: string
            namespaces: string[]
            /** @description What its services may want in all; without limit where absent. */
            quota: {
              services?: number
              instances?: number
              memoryMb?: number
              vcpus?: number
            }
            wanted: {
              services: number
              instances: number
              memoryMb: number
              vcpus: number
            }
            createdAt: number
          }
        }
      }
    }
  }
  deleteOrganisation: {
    parameters: {
      query?: never
      header?: never
      path: {
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Deletes an organisation that has no apps, users and clusters */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  changeOrganisation: {
    parameters: {
      query?: never
      header?: never
      path: {
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description Of apps; each belongs to at most one organisation. */
          namespaces?: string[]
          /** @description What its services may want in all; without limit where absent. */
          quota?: {
            services?: number
            instances?: number
            memoryMb?: number
            vcpus?: number
          }
        }
      }
    }
    responses: {
      /** @description Changes the namespaces or the quota of an organisation */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            name: string
            namespaces: string[]
            /** @description What its services may want in all; without limit where absent. */
            quota: {
              services?: number
              instances?: number
              memoryMb?: number
              vcpus?: number
            }
            wanted: {
              services: number
              instances: number
              memoryMb: number
              vcpus: number
            }
            createdAt: number
          }
        }
      }
    }
  }
  listUsers: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Users of the organisations whose administrator asks, and oneself */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: {
              name: string
              /** @description Whose administrators may give it a password and delete it. */
              organisation?: string
              grants: {
                /** @enum {unknown} */
                role:
                  | 'administrator'
                  | 'organisation-administrator'
                  | 'application-provider'
                  | 'infrastructure-provider'
                  | 'viewer'
                organisation?: string
              }[]
              hasPassword: boolean
              createdAt: number
            }[]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  createUser: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          name: string
          organisation?: string
          grants?: {
            /** @enum {unknown} */
            role:
              | 'administrator'
              | 'organisation-administrator'
              | 'application-provider'
              | 'infrastructure-provider'
              | 'viewer'
            organisation?: string
          }[]
          password?: string
        }
      }
    }
    responses: {
      /** @description Creates a user */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            name: string
            /** @description Whose administrators may give it a password and delete it. */
            organisation?: string
            grants: {
              /** @enum {unknown} */
              role:
                | 'administrator'
                | 'organisation-administrator'
                | 'application-provider'
                | 'infrastructure-provider'
                | 'viewer'
              organisation?: string
            }[]
            hasPassword: boolean
            createdAt: number
          }
        }
      }
    }
  }
  deleteUser: {
    parameters: {
      query?: never
      header?: never
      path: {
        name: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Deletes a user with its tokens, and ends its sessions */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  changeUser: {
    parameters: {
      query?: never
      header?: never
      path: {
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          add?: {
            /** @enum {unknown} */
            role:
              | 'administrator'
              | 'organisation-administrator'
              | 'application-provider'
              | 'infrastructure-provider'
              | 'viewer'
            organisation?: string
          }[]
          remove?: {
            /** @enum {unknown} */
            role:
              | 'administrator'
              | 'organisation-administrator'
              | 'application-provider'
              | 'infrastructure-provider'
              | 'viewer'
            organisation?: string
          }[]
        }
      }
    }
    responses: {
      /** @description Gives a user roles, and takes them */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            name: string
            /** @description Whose administrators may give it a password and delete it. */
            organisation?: string
            grants: {
              /** @enum {unknown} */
              role:
                | 'administrator'
                | 'organisation-administrator'
                | 'application-provider'
                | 'infrastructure-provider'
                | 'viewer'
              organisation?: string
            }[]
            hasPassword: boolean
            createdAt: number
          }
        }
      }
    }
  }
  setPassword: {
    parameters: {
      query?: never
      header?: never
      path: {
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          password: string
          /** @description Of oneself: the one before. */
          old?: string
        }
      }
    }
    responses: {
      /** @description Gives a user another password, and ends its sessions */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            user: string
          }
        }
      }
    }
  }
  connect: {
    parameters: {
      query?: {
        /** @description Changes nothing. */
        dryRun?: boolean
      }
      header?: never
      path: {
        /** @description The service that calls. */
        name: string
        /** @description The service that is called. */
        called: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description The greatest round trip; any where it is absent. */
          latencyMs?: number
          /** @description The called service lets the caller in, or no longer; as it is where absent. It needs `change` of that service. */
          allow?: boolean
        }
      }
    }
    responses: {
      /** @description Says that a service calls another, how near it must be, and whether it is let in */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Applied']
        }
      }
    }
  }
  disconnect: {
    parameters: {
      query?: {
        /** @description Changes nothing. */
        dryRun?: boolean
      }
      header?: never
      path: {
        /** @description The service that calls. */
        name: string
        /** @description The service that is called. */
        called: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Says that a service no longer calls another */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': components['schemas']['Applied']
        }
      }
    }
  }
  getLoginWays: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description How people log in here, beside name and password */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            oidc?: {
              /** @description The identity provider. */
              issuer: string
              /** @description Where a browser begins, on this root. */
              url: string
            }
          }
        }
      }
    }
  }
  login: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          user: string
          password: string
          /** @description In a cookie that no program of the page can read. */
          cookie?: boolean
          ttlSeconds?: number
        }
      }
    }
    responses: {
      /** @description Begins a session by name and password: as a token, or as a cookie for a browser */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            user: string
            token?: string
            expiresAt: number
          }
        }
      }
    }
  }
  logout: {
    parameters: {
      query?: never
      header?: {
        /** @description The request is made once; asked again with the same key, the root answers as the first time. */
        'idempotency-key'?: string
      }
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Ends the session with which it is asked */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            user: string
          }
        }
      }
    }
  }
  whoami: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Who asks, and what it may */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            user: string
            /** @enum {unknown} */
            by: 'credential' | 'token' | 'session'
            grants: {
              /** @enum {unknown} */
              role:
                | 'administrator'
                | 'organisation-administrator'
                | 'application-provider'
                | 'infrastructure-provider'
                | 'viewer'
              organisation?: string
            }[]
            /** @description It may what its owner may, and no more than this. */
            limits?: {
              grants?: {
                /** @enum {unknown} */
                role:
                  | 'administrator'
                  | 'organisation-administrator'
                  | 'application-provider'
                  | 'infrastructure-provider'
                  | 'viewer'
                organisation?: string
              }[]
              /** @description `app.namespace` */
              apps?: string[]
            }
            organisations: {
              name: string
              namespaces: string[]
              permissions: ('see' | 'change' | 'enter' | 'secrets' | 'operate' | 'people' | 'audit' | 'mesh')[]
            }[]
            isAdministrator: boolean
            expiresAt?: number
          }
        }
      }
    }
  }
  listApiTokens: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description API tokens and sessions: one’s own, and those of users about whom one decides */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: {
              id: string
              user: string
              /** @enum {unknown} */
              kind: 'token' | 'session'
              name?: string
              /** @description It may what its owner may, and no more than this. */
              limits?: {
                grants?: {
                  /** @enum {unknown} */
                  role:
                    | 'administrator'
                    | 'organisation-administrator'
                    | 'application-provider'
                    | 'infrastructure-provider'
                    | 'viewer'
                  organisation?: string
                }[]
                /** @description `app.namespace` */
                apps?: string[]
              }
              createdAt: number
              expiresAt: number
              usedAt?: number
            }[]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  createApiToken: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description What it is for. */
          name: string
          /** @description It may what its owner may, and no more than this. */
          limits?: {
            grants?: {
              /** @enum {unknown} */
              role:
                | 'administrator'
                | 'organisation-administrator'
                | 'application-provider'
                | 'infrastructure-provider'
                | 'viewer'
              organisation?: string
            }[]
            /** @description `app.namespace` */
            apps?: string[]
          }
          /** @description 30 days by default. */
          ttlSeconds?: number
        }
      }
    }
    responses: {
      /** @description Creates an API token of one’s own; its text is answered this once */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            id: string
            user: string
            /** @enum {unknown} */
            kind: 'token' | 'session'
            name?: string
            /** @description It may what its owner may, and no more than this. */
            limits?: {
              grants?: {
                /** @enum {unknown} */
                role:
                  | 'administrator'
                  | 'organisation-administrator'
                  | 'application-provider'
                  | 'infrastructure-provider'
                  | 'viewer'
                organisation?: string
              }[]
              /** @description `app.namespace` */
              apps?: string[]
            }
            createdAt: number
            expiresAt: number
            usedAt?: number
            token: string
          }
        }
      }
    }
  }
  revokeApiToken: {
    parameters: {
      query?: never
      header?: never
      path: {
        id: string
      }
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Revokes an API token, or ends a session; what it has open is cut */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            deleted: string[]
          }
        }
      }
    }
  }
  beginOidcLogin: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description Of `http://127.0.0.1:PORT/callback`. */
          port: number
        }
      }
    }
    responses: {
      /** @description Begins a login by the identity provider, for a program that listens on 127.0.0.1 */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            /** @description A secret, with which it is finished. */
            login: string
            /** @description Where somebody logs in, with a browser of this machine. */
            url: string
            expiresAt: number
          }
        }
      }
    }
  }
  finishOidcLogin: {
    parameters: {
      query?: never
      header?: never
      path?: never
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          login: string
          /** @description The query with which the provider sent the browser back. */
          answer: string
          ttlSeconds?: number
        }
      }
    }
    responses: {
      /** @description Ends a login by the identity provider with a session */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            user: string
            token: string
            expiresAt: number
          }
        }
      }
    }
  }
  listClusterOwners: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Whose clusters are, and who may place on them; of those that one operates */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: {
              cluster: string
              /** @description Nobody’s where it is absent: every organisation may place there. */
              organisation?: string
              admits: string[]
            }[]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
  setClusterOwner: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description Of the cluster. */
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          organisation: string | null
          /** @description Organisations that may place on it beside its owner; `*`: every one. */
          admits?: string[]
        }
      }
    }
    responses: {
      /** @description Gives a cluster to an organisation, or to nobody */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            cluster: string
            /** @description Nobody’s where it is absent: every organisation may place there. */
            organisation?: string
            admits: string[]
          }
        }
      }
    }
  }
  setClusterAdmits: {
    parameters: {
      query?: never
      header?: never
      path: {
        /** @description Of the cluster. */
        name: string
      }
      cookie?: never
    }
    requestBody: {
      content: {
        'application/json': {
          /** @description Organisations that may place on it beside its owner; `*`: every one. */
          organisations: string[]
        }
      }
    }
    responses: {
      /** @description Says which organisations may place on a cluster */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            cluster: string
            /** @description Nobody’s where it is absent: every organisation may place there. */
            organisation?: string
            admits: string[]
          }
        }
      }
    }
  }
  listAudit: {
    parameters: {
      query?: {
        /** @description How many at most; 100 by default. */
        limit?: number
        /** @description `next` of the page before. Without it the first page. */
        cursor?: string
        /** @description Only what this user did. */
        user?: string
        /** @description Only what was about this app, service, instance, node, cluster, user or organisation. */
        about?: string
        /** @description Only this call, as in `/v1/openapi.json`: `apply`. */
        call?: string
        /** @description Not before this time, milliseconds since 1970. */
        since?: number
      }
      header?: never
      path?: never
      cookie?: never
    }
    requestBody?: never
    responses: {
      /** @description Who did what, and from where; the newest first */
      200: {
        headers: {
          [name: string]: unknown
        }
        content: {
          'application/json': {
            items: {
              number: number
              at: number
              user: string
              /** @description Its API token or session. */
              token?: string
              /** @description The address from which it was asked. */
              from: string
              call: string
              about?: string
              status: number
              requestId: string
            }[]
            /** @description The `cursor` of the next page; absent on the last one. */
            next?: string
          }
        }
      }
    }
  }
}
