package runtime

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// replayWindow is how far back the audit log is read for messages that must not be admitted again.
const replayWindow = 6 * time.Minute

// Agent is one process of the mesh: a guarded server and the calls it makes. It implements grpc.ServiceRegistrar. Register
// everything before Serve; all other methods are safe for concurrent use.
type Agent struct {
	cfg      Config
	id       identity.AgentID
	src      identity.Source
	trust    Trust
	log      *audit.Log
	methods  *interceptors.Methods
	engine   *policy.Engine
	enforcer *interceptors.Enforcer
	verifier *delegation.Verifier
	server   *grpc.Server
	health   *health.Server
	exchange *exchange
	hops     hopCache
	messages messages
	renewals renewals
	replays  *replays
	connAge  time.Duration // when connections are cut

	mu       sync.Mutex
	problems []error
	conns    map[identity.AgentID]*Conn
	addr     string
	edge     *edgeServer

	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
}

// New connects to the Workload API and the authority, opens the audit log and builds the guarded server. It waits up to 30 s for
// an identity and the first trust bundle. Close releases what it holds.
func New(ctx context.Context, cfg Config) (_ *Agent, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a := &Agent{cfg: cfg, src: cfg.Source, trust: cfg.Trust, methods: new(interceptors.Methods), conns: map[identity.AgentID]*Conn{}, cancel: cancel}
	defer func() {
		if err != nil {
			_ = a.Close()
		}
	}()
	if a.src == nil {
		if a.src, err = WorkloadAPI(ctx, cfg.WorkloadAPI, cfg.ID); err != nil {
			return nil, err
		}
	}
	svid, err := a.src.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("runtime: own SVID: %w", err)
	}
	if a.id, err = identity.ParseAgentID(svid.ID); err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	if a.trust == nil {
		if a.trust, err = dialTrust(ctx, a.id, a.src, cfg.Authority, cfg.Now, cfg.Logger); err != nil {
			return nil, err
		}
	}
	if a.log = cfg.Audit; a.log == nil {
		a.log, err = audit.Open(cfg.AuditDir, audit.Config{Origin: LogOrigin(a.id), Now: cfg.Now})
		if err != nil {
			return nil, fmt.Errorf("runtime: %w", err)
		}
	}
	if err := a.build(run, lifeOf(svid.Certificates[0])); err != nil {
		return nil, err
	}
	return a, nil
}

// build makes the enforcement core and the server in front of it. life is that of the SVIDs.
func (a *Agent) build(run context.Context, life time.Duration) error {
	var err error
	if a.engine, err = policy.NewEngine(policy.Config{Self: a.id, Registry: a.trust, Now: a.cfg.Now}); err != nil {
		return err
	}
	updates := &generation{}
	meter := conduct.NewMeter(a.cfg.AgentBudget, a.cfg.TenantBudget)
	a.verifier, err = delegation.NewVerifier(delegation.Config{
		Self: a.id, Keys: a.trust.Keys(), Bundles: a.src, BundleGeneration: updates.Load, Now: a.cfg.Now,
		Limits: delegation.Limits{Allow: func(peer identity.AgentID, signatures int) bool {
			return meter.Cold(peer, a.cfg.Now(), signatures)
		}},
	})
	if err != nil {
		return err
	}
	if a.replays, err = a.openReplays(); err != nil {
		return err
	}
	age, grace := connectionAge(life)
	a.connAge = age
	a.enforcer, err = interceptors.New(interceptors.Config{
		Self: a.id, Registry: a.trust, Verifier: a.verifier, Engine: a.engine, Audit: a.log, Methods: a.methods, Now: a.cfg.Now,
		Meter: meter, Replay: a.replays, DuplicateGrace: age*11/10 + grace, DuplicateSlack: min(life/10, interceptors.DefaultDuplicateSlack),
	})
	if err != nil {
		return err
	}
	if err := a.rebuildReplay(run); err != nil {
		return err
	}
	a.applyTable(run)
	a.renewals.open(run, a.trust)
	a.wg.Add(2)
	go a.followTrust(run)
	go a.followBundles(run, updates)

	opts := append(enforcegrpc.ServerOptions(a.enforcer, identity.ServerTLS(a.src)),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: age, MaxConnectionAgeGrace: grace}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
	if n := a.cfg.AgentBudget.InFlight; n > 0 {
		opts = append(opts, grpc.MaxConcurrentStreams(streamsFor(n)))
	}
	a.server = grpc.NewServer(opts...)
	a.exchange = &exchange{agent: a, handlers: map[string]handler{}, keys: newOwnKeys()}
	a.server.RegisterService(a.exchange.service(), a.exchange)
	a.health = health.NewServer()
	healthpb.RegisterHealthServer(a.server, a.health)
	for _, m := range []string{"Check", "Watch", "List"} {
		err := a.methods.Add(&interceptors.Method{
			Procedure: "/grpc.health.v1.Health/" + m, Intent: &v1.MethodIntent{Open: true, Audit: v1.AuditClass_AUDIT_CLASS_BUFFERED},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Bounds of the streams that one connection may have open.
const (
	minStreams = 128
	maxStreams = 16384
)

// streamsFor is how many streams a connection may have where the budget of calls in flight is n: more than calls, so that it is the
// core that refuses the excess, with a reason, and not the transport that lets it wait.
func streamsFor(n int64) uint32 {
	return uint32(min(max(2*n, minStreams), maxStreams)) // at most maxStreams
}

// LogOrigin names the agent's audit log: trust domain, product, and the path of its identity.
func LogOrigin(id identity.AgentID) string {
	return id.TrustDomain().Name() + "/safeconduct" + id.ID().Path()
}

// lifeOf is how long SVIDs live from their issue on. An issuer backdates them for slow clocks, so what is left counts; but an SVID
// that is about to be replaced says little about the next one, so at least a quarter of the whole does too.
func lifeOf(leaf *x509.Certificate) time.Duration {
	whole := leaf.NotAfter.Sub(leaf.NotBefore)
	return max(min(whole, time.Until(leaf.NotAfter)), whole/4)
}

// connectionAge is when connections are cut, such that one always ends well before the SVID it was made with: 1.1 age + grace is
// at most 0.45 of the SVID's life, and an SVID is replaced when half of its life is over.
func connectionAge(life time.Duration) (age, grace time.Duration) {
	age = min(life/3, 20*time.Minute)
	return age, min(life*7/100, 5*time.Minute)
}

// rebuildReplay reads the recent intents of earlier boots, before the first message is accepted.
func (a *Agent) rebuildReplay(ctx context.Context) error {
	for rec, err := range a.log.Since(a.cfg.Now().Add(-replayWindow)) {
		if err != nil {
			return fmt.Errorf("runtime: rebuilding the replay set: %w", err)
		}
		ev := rec.Event
		if ev.GetKind() != v1.EventKind_EVENT_KIND_CALL || ev.GetPhase() != v1.EventPhase_EVENT_PHASE_INTENT ||
			ev.GetDirection() != v1.EventDirection_EVENT_DIRECTION_INBOUND || ev.GetDecision() != v1.EventDecision_EVENT_DECISION_ALLOW {
			continue
		}
		if id, err := identity.ParseAgent(ev.GetActor().GetSpiffeId()); err == nil && len(ev.GetEnvelopeId()) == 16 {
			err := a.enforcer.Admitted(id, ev.GetEnvelopeId())
			if err == nil && len(ev.GetInvocationJti()) > 0 {
				err = a.replays.restore(ctx, id, ev.GetInvocationJti())
			}
			if err != nil {
				return fmt.Errorf("runtime: rebuilding the replay set: %w", err)
			}
		}
	}
	return ctx.Err()
}

func (a *Agent) followTrust(ctx context.Context) {
	defer a.wg.Done()
	for {
		changed := a.trust.Changed()
		a.applyTable(ctx)
		_ = a.replays.look(ctx) // so that it is known also when no proof comes meanwhile
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// applyTable puts the published table in force; one that is refused leaves the old one standing.
func (a *Agent) applyTable(ctx context.Context) {
	t := a.trust.Table()
	if t == nil {
		return
	}
	if err := a.engine.Activate(t); err != nil {
		a.cfg.Logger.ErrorContext(ctx, "capability table refused", slog.String("error", err.Error()))
		_, _ = a.log.Append(ctx, audit.Effect, &v1.AuditEvent{
			Kind: v1.EventKind_EVENT_KIND_TABLE_REJECTED, Reason: v1.Reason_REASON_TABLE_REJECTED, PolicySerial: t.Serial(),
			Decision: v1.EventDecision_EVENT_DECISION_DENY, Cause: "capability table refused",
		})
	}
}

// followBundles moves the generation that cached chain verifications belong to, when the roots of the own trust domain change. A
// rotation of the own SVID alone changes nothing that was verified.
func (a *Agent) followBundles(ctx context.Context, g *generation) {
	defer a.wg.Done()
	old, _ := a.src.GetX509BundleForTrustDomain(a.id.TrustDomain()) // nil differs from the first one that arrives
	for {
		updated := a.src.Updated()
		bundle, err := a.src.GetX509BundleForTrustDomain(a.id.TrustDomain())
		if err != nil || old == nil || !bundle.Equal(old) {
			old = bundle
			g.Add(1)
		}
		select {
		case <-ctx.Done():
			return
		case <-updated:
		}
	}
}

// RegisterService implements grpc.ServiceRegistrar. A service whose methods do not declare what they mean makes Serve fail.
func (a *Agent) RegisterService(sd *grpc.ServiceDesc, impl any) {
	if err := a.exchange.register(sd, impl); err != nil {
		a.mu.Lock()
		a.problems = append(a.problems, err)
		a.mu.Unlock()
		return
	}
	a.server.RegisterService(sd, impl)
}

// ID returns the agent's own identity.
func (a *Agent) ID() identity.AgentID { return a.id }

// Addr returns where the agent serves, empty before Serve.
func (a *Agent) Addr() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.addr
}

// Source returns the agent's own SVID source.
func (a *Agent) Source() identity.Source { return a.src }

// Enforcer returns the enforcement core, for handlers of the product's own services.
func (a *Agent) Enforcer() *interceptors.Enforcer { return a.enforcer }

// Audit returns the agent's audit log.
func (a *Agent) Audit() *audit.Log { return a.log }

// PolicySerial returns the serial of the capability table in force, 0 before there is one.
func (a *Agent) PolicySerial() uint64 {
	if t := a.engine.Table(); t != nil {
		return t.Serial()
	}
	return 0
}
