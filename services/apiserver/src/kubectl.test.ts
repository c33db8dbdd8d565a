import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { tokenSigner, tokenVerifier } from './edge/index.js'
import { createTestApi, serveTestHttps, type TestApi, type TestHttps } from './testing/index.js'

const hasKubectl = spawnSync('kubectl', ['version', '--client'], { stdio: 'ignore' }).status === 0

const DEPLOYMENT = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx
spec:
  strategy:
    type: Recreate
  selector:
    matchLabels:
      app: nginx
  replicas: 1
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx
        ports:
        - containerPort: 80
`

interface Ran {
  code: number | null
  out: string
  err: string
}

describe('the real kubectl', { skip: hasKubectl ? false : 'there is no kubectl on this machine' }, () => {
  let api: TestApi
  let https: TestHttps
  before(async () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const key = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
    api = await createTestApi({
      server: { signToken: tokenSigner(key), verifyToken: tokenVerifier({ serviceAccountKey: key }) },
    })
    https = await serveTestHttps(api.api)
  })
  after(async () => {
    await https?.close()
    await api?.stop()
  })

  function kubectl(args: string, input?: string): Promise<Ran> {
    return new Promise((resolve, reject) => {
      const env = { ...process.env, KUBE_EDITOR: 'cat' }
      const child = spawn('kubectl', [`--kubeconfig=${https.kubeconfig}`, ...args.split(' ')], { stdio: 'pipe', env })
      const ran: Ran = { code: null, out: '', err: '' }
      child.stdout.on('data', (piece: Buffer) => {
        ran.out += piece.toString()
      })
      child.stderr.on('data', (piece: Buffer) => {
        ran.err += piece.toString()
      })
      child.on('error', reject)
      child.on('close', (code) => resolve({ ...ran, code }))
      child.stdin.end(input)
    })
  }

  async function ok(args: string, input?: string): Promise<string> {
    const ran = await kubectl(args, input)
    assert.equal(ran.code, 0, `kubectl ${args}: ${ran.err}`)
    return ran.out
  }

  async function refused(args: string, words: RegExp, input?: string): Promise<void> {
    const ran = await kubectl(args, input)
    assert.notEqual(ran.code, 0, `kubectl ${args} should have failed: ${ran.out}`)
    assert.match(ran.err, words)
  }

  test('a Deployment: apply, get, scale, expose, set image, describe, delete', async () => {
    assert.equal(await ok('apply -f -', DEPLOYMENT), 'deployment.apps/nginx created\n')
    assert.equal(await ok('apply -f -', DEPLOYMENT), 'deployment.apps/nginx unchanged\n')
    assert.match(await ok('get deployments'), /^NAME +READY +UP-TO-DATE +AVAILABLE +AGE\nnginx +0\/1 +0 +0 +\d+s\n$/)
    assert.equal(await ok('scale deployment nginx --replicas=5'), 'deployment.apps/nginx scaled\n')
    assert.equal(await ok('get deployment nginx -o jsonpath={.spec.replicas}/{.metadata.generation}'), '5/2')
    assert.equal(await ok('expose deployment nginx --port=80'), 'service/nginx exposed\n')
    assert.match(await ok('get service nginx -o jsonpath={.spec.clusterIP}'), /^10\.96\.\d+\.\d+$/)
    assert.equal(await ok('set image deployment/nginx nginx=nginx:2'), 'deployment.apps/nginx image updated\n')
    assert.equal(await ok('get deployment nginx -o jsonpath={.spec.template.spec.containers[0].image}'), 'nginx:2')
    assert.match(await ok('describe deployment nginx'), /Replicas: +5 desired/)
    assert.match(await ok('get all -o name'), /deployment\.apps\/nginx/)
    await ok('delete deployment,service nginx')
    await refused('get deployment nginx', /Error from server \(NotFound\): deployments\.apps "nginx" not found/)
  })

  test('server-side apply, its conflicts and their solution', async () => {
    await ok('apply --server-side -f -', DEPLOYMENT)
    await ok('scale deployment nginx --replicas=4')
    await refused('apply --server-side -f -', /Apply failed with 1 conflict: .*: \.spec\.replicas/, DEPLOYMENT)
    await ok('apply --server-side --force-conflicts -f -', DEPLOYMENT)
    assert.equal(await ok('get deployment nginx -o jsonpath={.spec.replicas}'), '1')
    await ok('delete deployment nginx')
  })

  test('explain, and what the cluster has', async () => {
    assert.match(
      await ok('explain deployment.spec.strategy'),
      /FIELD: strategy <DeploymentStrategy>[\s\S]*rollingUpdate\t<RollingUpdateDeployment>/,
    )
    assert.match(await ok('api-resources'), /deployments +deploy +apps\/v1 +true +Deployment/)
    assert.match(await ok('version'), /Server Version: v1\.36\.0\+capstan/)
    assert.match(await ok('auth whoami'), /kubernetes-admin/)
    assert.equal(await ok('auth can-i create pods'), 'yes\n')
    assert.match(await ok('get namespaces'), /default +Active/)
  })

  test("what is wrong is told in Kubernetes' words", async () => {
    const misspelt = DEPLOYMENT.replace('replicas:', 'replcas:')
    await refused('apply -f -', /strict decoding error: unknown field "spec\.replcas"/, misspelt)
    await refused('get things', /the server doesn't have a resource type "things"/)
    await refused(
      'create -f -',
      /invalid: metadata\.name: Invalid value: "UPPER"/,
      'apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: UPPER\n',
    )
    const long = Array(4).fill('a'.repeat(62)).join('.').padEnd(253, 'b')
    assert.equal(await ok(`create configmap ${long} --from-literal=a=b`), `configmap/${long} created\n`)
    await refused(`create configmap ${long}c`, /must be no more than 253/)
    await refused('create configmap x -n nowhere', /namespaces "nowhere" not found/)
    await ok('create configmap patched --from-literal=a=b')
    await refused(
      'patch configmap patched --type=json -p [{"op":"test","path":"/data/a","value":"c"}]',
      /The request is invalid/,
    )
    await refused('patch configmap patched --type=json -p [{"nop":1}]', /error decoding patch/)
    await refused('patch configmap patched --type=merge -p {"data":3}', /cannot unmarshal/)
    await refused('create quota q --hard=pods=1', /the server could not find the requested resource/)
    await ok('run idle --image=nginx')
    await refused('exec idle -- ls', /pods\/exec is not built yet/)
    await refused('get --raw /api/v1/namespaces/default/pods/idle/nothing', /could not find the requested resource/)
    await refused('get pods --field-selector=spec.bogus=1', /field label not supported: spec\.bogus/)
  })

  test('what kubectl sends as protobuf', async () => {
    await ok('create namespace team')
    await ok('create serviceaccount bot -n team')
    await ok('create secret generic s --from-literal=password=hidden -n team')
    assert.equal(
      await ok('get secret s -n team -o jsonpath={.data.password}'),
      Buffer.from('hidden').toString('base64'),
    )
    await ok('create deployment d --image=nginx --port=80 --replicas=2 -n team')
    assert.equal(
      await ok(
        'get deployment d -n team -o jsonpath={.spec.replicas},{.spec.template.spec.containers[0].ports[0].containerPort}',
      ),
      '2,80',
    )
    await ok('create service nodeport np --tcp=80:8080 -n team')
    assert.equal(await ok('get service np -n team -o jsonpath={.spec.ports[0].targetPort}'), '8080')
    await ok('create service externalname en --external-name=example.com -n team')
    assert.equal(await ok('get service en -n team -o jsonpath={.spec.externalName}'), 'example.com')
    const token = (await ok('create token bot -n team')).trim()
    assert.match(
      (await kubectl(`--token=${token} auth whoami`)).out + (await api.api.userOfToken(token))?.name,
      /system:serviceaccount:team:bot/,
    )
  })

  test('pods: dry run, labels, graceful and forced deletion, watch', async () => {
    await ok('run dry --image=a --dry-run=server')
    await refused('get pod dry', /NotFound/)
    const watch = kubectl('get pods --watch --request-timeout=3s')
    await ok('run p --image=a')
    await ok('label pod p x=y')
    assert.match(await ok('get pods -l x=y'), /^NAME +READY +STATUS +RESTARTS +AGE\np +0\/1 +Pending/)
    await ok('delete pod p')
    const bound =
      '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"q"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}'
    await ok('create -f -', bound)
    await ok('delete pod q --wait=false')
    assert.match(await ok('get pods'), /q +0\/1 +Terminating/)
    await ok('delete pod q --force --grace-period=0')
    await refused('get pod q', /NotFound/)
    assert.match((await watch).out, /p +0\/1 +Pending/)
  })

  test('rollouts: history, undo, restart, wait; deletion that leaves the ReplicaSets', async () => {
    const web = DEPLOYMENT.replaceAll('nginx', 'web')
    await ok('create -f -', web)
    const uid = await ok('get deployment web -o jsonpath={.metadata.uid}')
    // There are no control loops here: the test does what they would.
    for (const revision of ['1', '2'])
      await ok(
        'create -f -',
        JSON.stringify({
          apiVersion: 'apps/v1',
          kind: 'ReplicaSet',
          metadata: {
            name: `web-${revision}`,
            labels: { app: 'web', 'pod-template-hash': revision },
            annotations: { 'deployment.kubernetes.io/revision': revision },
            ownerReferences: [{ apiVersion: 'apps/v1', kind: 'Deployment', name: 'web', uid, controller: true }],
          },
          spec: {
            replicas: 0,
            selector: { matchLabels: { app: 'web', 'pod-template-hash': revision } },
            template: {
              metadata: { labels: { app: 'web', 'pod-template-hash': revision } },
              spec: { containers: [{ name: 'web', image: `web:${revision}` }] },
            },
          },
        }),
      )
    await ok('set image deployment/web web=web:2')
    assert.match(await ok('rollout history deployment/web'), /REVISION +CHANGE-CAUSE\n1 +<none>\n2 +<none>/)
    assert.match(await ok('rollout history deployment/web --revision=1'), /Image:\tweb:1/)
    await refused('rollout undo deployment/web --to-revision=9', /unable to find specified revision 9 in history/)
    assert.equal(await ok('rollout undo deployment/web'), 'deployment.apps/web rolled back\n')
    assert.equal(await ok('get deployment web -o jsonpath={.spec.template.spec.containers[0].image}'), 'web:1')
    assert.equal(await ok('rollout restart deployment/web'), 'deployment.apps/web restarted\n')
    assert.match(await ok('get deployment web -o jsonpath={.spec.template.metadata.annotations}'), /restartedAt/)
    await ok(
      'patch deployment web --subresource=status --type=merge -p {"status":{"conditions":[{"type":"Available","status":"True"}]}}',
    )
    assert.equal(
      await ok('wait --for=condition=Available deployment/web --timeout=10s'),
      'deployment.apps/web condition met\n',
    )
    assert.match(await ok('get all'), /deployment\.apps\/web[\s\S]*replicaset\.apps\/web-1/)
    // Without a garbage collector the finalizer stays.
    await ok('delete deployment web --cascade=orphan --wait=false')
    assert.equal(await ok('get deployment web -o jsonpath={.metadata.finalizers}'), '["orphan"]')
    await ok('patch deployment web --type=json -p [{"op":"remove","path":"/metadata/finalizers"}]')
    await refused('get deployment web', /NotFound/)
    assert.match(await ok('get replicasets -o name'), /web-1\nreplicaset\.apps\/web-2/)
    await ok('delete replicaset web-1 web-2')
    await refused('top pods', /Metrics API not available/)
  })

  test('stateful sets: columns, scale, history, undo, status of a rollout, explain', async () => {
    const set = {
      apiVersion: 'apps/v1',
      kind: 'StatefulSet',
      metadata: { name: 'db' },
      spec: {
        serviceName: 'db',
        replicas: 2,
        selector: { matchLabels: { app: 'db' } },
        template: { metadata: { labels: { app: 'db' } }, spec: { containers: [{ name: 'db', image: 'db:2' }] } },
      },
    }
    await ok('create -f -', JSON.stringify(set))
    const uid = await ok('get sts db -o jsonpath={.metadata.uid}')
    assert.match(await ok('get sts'), /NAME +READY +AGE\ndb +0\/2 +/)
    await ok('scale sts db --replicas=3')
    assert.equal(await ok('get sts db -o jsonpath={.spec.replicas}'), '3')
    const template = JSON.parse(await ok('get sts db -o jsonpath={.spec.template}')) as {
      spec: { containers: object[] }
    }
    // There are no control loops here: the test does what they would.
    for (const revision of [1, 2]) {
      const containers = [{ ...template.spec.containers[0], image: `db:${revision}` }]
      await ok(
        'create -f -',
        JSON.stringify({
          apiVersion: 'apps/v1',
          kind: 'ControllerRevision',
          metadata: {
            name: `db-${revision}`,
            labels: { app: 'db' },
            ownerReferences: [{ apiVersion: 'apps/v1', kind: 'StatefulSet', name: 'db', uid, controller: true }],
          },
          revision,
          data: { spec: { template: { ...template, spec: { ...template.spec, containers }, $patch: 'replace' } } },
        }),
      )
    }
    assert.match(
      await ok('get controllerrevisions'),
      /NAME +CONTROLLER +REVISION +AGE\ndb-1 +statefulset.apps\/db +1 +/,
    )
    assert.match(await ok('rollout history sts/db'), /REVISION +CHANGE-CAUSE\n1 +<none>\n2 +<none>/)
    assert.match(await ok('rollout history sts/db --revision=1'), /Image:\s+db:1/)
    assert.equal(await ok('rollout undo sts/db --to-revision=1'), 'statefulset.apps/db rolled back\n')
    assert.equal(await ok('get sts db -o jsonpath={.spec.template.spec.containers[*].image}'), 'db:1')
    const generation = Number(await ok('get sts db -o jsonpath={.metadata.generation}'))
    const status = {
      observedGeneration: generation,
      replicas: 3,
      readyReplicas: 3,
      updatedReplicas: 3,
      currentReplicas: 3,
      currentRevision: 'db-1',
      updateRevision: 'db-1',
    }
    await ok(`patch sts db --subresource=status --type=merge -p ${JSON.stringify({ status })}`)
    assert.match(
      await ok('rollout status sts/db --timeout=10s'),
      /partitioned roll out complete: 3 new pods have been updated/,
    )
    assert.match(await ok('explain sts.spec.podManagementPolicy'), /FIELD: podManagementPolicy/)
    await refused(
      'patch sts db --type=merge -p {"spec":{"serviceName":"other"}}',
      /updates to statefulset spec for fields other than 'replicas'/,
    )
    await ok('delete sts db')
  })

  test('events have the columns of Kubernetes', async () => {
    const event = {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: 'p.1' },
      involvedObject: { kind: 'Pod', name: 'p', namespace: 'default', fieldPath: 'spec.containers{c}' },
      type: 'Warning',
      reason: 'BackOff',
      message: 'Back-off',
      source: { component: 'kubelet', host: 'n' },
      count: 3,
      firstTimestamp: '2026-01-01T00:00:00Z',
      lastTimestamp: '2026-01-01T00:00:00Z',
    }
    await ok('create -f -', JSON.stringify(event))
    assert.match(
      await ok('get events'),
      /^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n\S+ +Warning +BackOff +pod\/p +Back-off\n$/,
    )
    assert.match(
      await ok('get events -o wide'),
      /^LAST SEEN +TYPE +REASON +OBJECT +SUBOBJECT +SOURCE +MESSAGE +FIRST SEEN +COUNT +NAME\n.* kubelet, n .* 3 +p\.1\n$/,
    )
    assert.match(await ok('events'), /Warning +BackOff +Pod\/p +Back-off/)
    await ok('delete event p.1')
  })

  test('patch, edit, label, annotate; what is no object', async () => {
    await ok('create configmap edited --from-literal=x=v')
    await ok('patch configmap edited -p {"data":{"s":"1"}}')
    await ok('patch configmap edited --type=merge -p {"data":{"s":null,"m":"1"}}')
    await ok('patch configmap edited --type=json -p [{"op":"add","path":"/data/j","value":"1"}]')
    assert.equal(await ok('get configmap edited -o jsonpath={.data}'), '{"j":"1","m":"1","x":"v"}')
    await refused(
      'patch configmap edited --type=json -p [{"op":"remove","path":"/data/none"}]',
      /^The request is invalid: the server rejected our request due to an error in our request: operation 0/,
    )
    assert.match((await kubectl('edit configmap edited')).err, /Edit cancelled, no changes made/)
    await ok('label configmap edited k=v')
    await refused('label configmap edited k=w', /--overwrite is false/)
    assert.equal(await ok('label configmap edited k-'), 'configmap/edited unlabeled\n')
    await ok('annotate configmap edited note=x')
    await refused('annotate configmap edited BAD/KEY/x=1', /metadata\.annotations: Invalid value: "BAD\/KEY\/x"/)
    await refused(
      'create -f -',
      /strict decoding error: unknown field "datas", unknown field "extra"/,
      'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndatas: {}\nextra: []\n',
    )
    await refused(
      'create -f -',
      /no matches for kind "Bogus" in version "v1"/,
      'apiVersion: v1\nkind: Bogus\nmetadata: {name: c}\n',
    )
    await refused(
      'create -f -',
      /\* spec\.selector: Required value[\s\S]*\* spec\.template\.spec\.containers: Required value/,
      'apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {}\n',
    )
    await ok('create configmap a.b.c --from-literal=x=v')
    assert.equal(await ok('get configmap a.b.c -o name'), 'configmap/a.b.c\n')
  })
})
